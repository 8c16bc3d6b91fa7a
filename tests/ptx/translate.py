"""PTX to C++: what nvcc has made of a kernel, for the simulator's engine to run.

A register becomes a variable of its size, an instruction a statement that calls its twin in `machine.h`, which has the
instruction's name, dots turned into underscores, and its types as arguments of a template. So an instruction without a
twin does not compile. Addresses of shared memory count from the block's own, all others are the host's.

Not modelled: when things happen. Copies land and products are made where they are asked for or waited for, and what
orders memory orders nothing more than the simulator does. What ptxas makes of the PTX is another matter.
Source of the instructions' meaning: NVIDIA's Parallel Thread Execution ISA.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_ENTRY = re.compile(r"\s*(\w+)\(([^)]*)\)[^{]*\{\n(.*)^\}", re.MULTILINE | re.DOTALL)
_TABLE = re.compile(
    r"^(?:\.visible )?\.(?:global|const) \.align (\d+) \.(\w+) (\w+)(?:\[(\d*)\])?(?: = (\{[^}]*\}|[^;{]+))?;$",
    re.MULTILINE,
)
_PARAMETER = re.compile(r"\.param ([^,\[]*?)(\w+)(?:\[(\d+)\])?\s*(?:,|$)")
_STATEMENT = re.compile(  # a brace, a label, or what ends with a semicolon
    r"\s*(?:(\{(?!\s*[%_])|\}(?!\s*[,;]))|([$\w]+:)(?!:)|([^;{}]*(?:\{[^{}]*\}[^;{}]*)*);)"
)
_TYPE = re.compile(r"pred|[bsu](?:8|16|32|64)|f(?:16|16x2|32|64)|bf16|bf16x2|e4m3x2|e2m1x2")
_SIZES = {"pred": "bool"} | {f"{kind}{bits}": f"u{bits}" for kind in "bsuf" for bits in (8, 16, 32, 64)}
_SPECIAL = {
    "%tid.x": "thread_index()",
    "%ntid.x": "block_threads()",
    "%laneid": "lane_index()",
    "%lanemask_eq": "(1u << lane_index())",
} | {
    f"%{register}.{axis}": f"sim::current->block->{name}[{i}]"
    for register, name in (("ctaid", "index"), ("nctaid", "grid"))
    for i, axis in enumerate("xyz")
}
# What says when something may happen, or orders what the simulator does in order anyway.
_NOTHING = (
    "createpolicy",
    "fence.mbarrier_init",
    "fence.proxy.async",
    "griddepcontrol",
    "prefetch",
    "setmaxnreg",
    "wgmma.commit_group",
    "wgmma.fence",
    "wgmma.wait_group",
)
_IMPLIED = {"rn", "sync", "aligned"}  # of a twin's name
_SPACES = {"param", "global", "shared", "shared::cta", "local", "const"}
_FRESH = {"relaxed", "acquire", "release", "volatile"}
_WORD = re.compile(r"[bsu](32|64)")
_OPERATORS = {"add": "+", "sub": "-", "mul_lo": "*", "and": "&", "or": "|", "xor": "^"}
_TESTS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_JOINS = {"and": "&", "or": "|", "xor": "^"}


class UnknownPtxError(Exception):
    """PTX that this reader does not know."""


def translate(ptx: str) -> dict[str, str]:
    """Of each kernel its C++, which needs `machine.h` before it. UnknownPtxError for functions, or odd declarations."""
    head, *kernels = ptx.split(".visible .entry")
    if not kernels or re.search(r"^(?:\.visible )?\.func\b", ptx, re.MULTILINE):
        raise UnknownPtxError(f"kernels, and no functions, are read: {head}")
    tables = {match[3]: _table(*match.groups()) for match in _TABLE.finditer(ptx)}
    made = {}
    for text in kernels:
        match = _ENTRY.match(text)
        if match is None:
            raise UnknownPtxError(text[:200])
        name, parameters, body = match.groups()
        own = "".join(table for of, table in tables.items() if of in body)
        made[name] = f"namespace of_{name} {{\nusing namespace imp;\nusing namespace imp::machine;\n{own}"
        made[name] += f"{_Kernel(name).source(parameters, body)}}}\n"
    return made


def _table(align: str, kind: str, name: str, count: str | None, values: str | None) -> str:
    size = "" if count is None else f"[{count}]"
    return f"alignas({align}) {_SIZES[kind]} {name}{size} = {values or '{}'};\n"


@dataclass
class _Kernel:
    name: str
    lines: list[str] = field(default_factory=list)
    registers: dict[str, str] = field(default_factory=dict)  # C++ name to type
    used: set[str] = field(default_factory=set)
    scopes: list[dict[str, str]] = field(default_factory=lambda: [{}])  # PTX name to C++ name, innermost last
    opened: int = 0

    def source(self, parameters: str, body: str) -> str:
        declared, packed = self._parameters(parameters)
        for statement in _statements(re.sub(r"//[^\n]*", "", body)):
            self._statement(statement)
        variables = "".join(f"  {kind} {name} = 0;\n" for name, kind in self.registers.items() if name in self.used)
        lines = "\n".join(self.lines)
        return f'{packed}extern "C" void {self.name}({declared}) {{\n{variables}{lines}\n}}\n'

    def _parameters(self, text: str) -> tuple[str, str]:
        """What stands in the parentheses, and what before the function: pointers, or one struct of them."""
        found = _PARAMETER.findall(text.strip())
        if len(found) == 1 and found[0][2]:
            _, name, size = found[0]
            packed = f"Packed_{self.name}"
            return f"{packed} {name}", f"struct alignas(8) {packed} {{ u8 bytes[{size}]; }};\n"
        if any(size or not kinds.startswith((".u64", ".b64")) for kinds, _, size in found):
            raise UnknownPtxError(f"parameters of {self.name}: {text}")
        return ", ".join(f"u64 {name}" for _, name, _ in found), ""

    def _statement(self, text: str) -> None:
        if text == "{":
            self.opened += 1
            self.scopes.append({})
        elif text == "}":
            self.scopes.pop()
        elif text.endswith(":"):
            self.lines.append(f"{self._declare(text[:-1])}:;")
        elif text.startswith("."):
            self._directive(text)
        else:
            match = re.fullmatch(r"(?:@(!?[%\w]+)\s+)?(\S+)\s*(.*)", text, re.DOTALL)
            if match is None:
                raise UnknownPtxError(text)
            guard, opcode, operands = match.groups()
            condition = f"if ({self._predicate(guard)}) " if guard else ""
            if not opcode.startswith(_NOTHING):
                made = self._instruction(opcode.split("."), _operands(operands))
                self.lines.append(f"  {condition}{{ {made} }}")

    def _directive(self, text: str) -> None:
        kind, *words = text.replace(",", " ").split()
        if kind == ".reg":
            size = _SIZES[words[0].removeprefix(".")]
            for name in words[1:]:
                stem, many, count = name.rstrip(">").partition("<")
                names = [f"{stem}{i}" for i in range(int(count))] if many else [name]
                self.registers |= {self._declare(each): size for each in names}
        elif match := re.fullmatch(r"\.local \.align (\d+) \.b8\s+(\w+)\[(\d+)\]", " ".join(text.split())):
            self.lines.insert(0, f"  alignas({match[1]}) u8 {match[2]}[{match[3]}];")
        elif kind != ".pragma":
            raise UnknownPtxError(text)

    def _declare(self, name: str) -> str:
        """Give a register or a label its C++ name; those that inline assembly declares are its own."""
        made = _plain(name) + (f"in{self.opened}" if len(self.scopes) > 1 else "")
        self.scopes[-1][name] = made
        return made

    def _name(self, name: str) -> str:
        """Of a register or a label, which may be declared later."""
        made = next((scope[name] for scope in reversed(self.scopes) if name in scope), _plain(name))
        self.used.add(made)
        return made

    def _value(self, text: str) -> str:
        """An operand: register, number or address."""
        if match := re.fullmatch(r"0[fd]([0-9A-Fa-f]+)", text):
            return f"u64{{0x{match[1]}}}"
        if match := re.fullmatch(r"(-?\d+|0x[0-9A-Fa-f]+)U?", text):
            return f"u64({match[1]}{'ull' if int(match[1], 0) >= 1 << 63 else 'll'})"
        if text in _SPECIAL:
            return _SPECIAL[text]
        if text.startswith("%") or any(text in scope for scope in self.scopes):
            return self._name(text)
        return "u64{0}" if text.endswith("shared_arenaE") else f"address_of({text})"

    def _predicate(self, text: str) -> str:
        return f"!{self._name(text[1:])}" if text.startswith("!") else self._name(text)

    def _place(self, text: str) -> str:
        """An address in brackets: register or name, and an offset."""
        base, _, offset = text.strip("[] ").partition("+")
        return f"{self._value(base)} + u64({offset or 0}ll)"

    def _memory(self, parts: list[str], text: str) -> str:
        shared = any(part.startswith("shared") for part in parts)
        return f"{'at_shared' if shared else 'at_memory'}({self._place(text)})"

    def _names(self, text: str) -> list[str]:
        return [self._name(name) for name in _vector(text)]

    def _values(self, text: str) -> list[str]:
        return [self._value(name) for name in _vector(text)]

    def _instruction(self, parts: list[str], operands: list[str]) -> str:
        special = getattr(self, f"_{parts[0]}", None)
        return str(special(parts[1:], operands)) if special else self._plain_instruction(parts, operands)

    def _plain_instruction(self, parts: list[str], operands: list[str]) -> str:
        """A function of values; of the most frequent ones C++'s own operator, which compiles in half the time."""
        kinds = [part for part in parts[1:] if _TYPE.fullmatch(part)]
        twin = "_".join(part for part in parts if part not in kinds and part not in _IMPLIED)
        target, *sources = operands
        if (operator := _OPERATORS.get(twin)) and (word := _WORD.fullmatch(kinds[0])):
            first, second = (f"u{word[1]}({self._value(source)})" for source in sources)
            return f"{self._name(target)} = {first} {operator} {second};"
        values = ", ".join(map(self._value, sources))
        return f"set({self._name(target)}, {twin}_<{', '.join(kinds)}>({values}));"

    # What is no function of values.

    def _bra(self, _: list[str], operands: list[str]) -> str:
        return f"goto {self._name(operands[0])};"

    def _ret(self, _: list[str], operands: list[str]) -> str:
        return "return;"

    def _trap(self, _: list[str], operands: list[str]) -> str:
        return 'sim::fail(sim::Location::current(), "trap");'

    def _mov(self, parts: list[str], operands: list[str]) -> str:
        target, source = operands
        if source.startswith("{"):
            return f"set({self._name(target)}, pack({', '.join(self._values(source))}));"
        if not target.startswith("{") and (word := _WORD.fullmatch(parts[-1])):
            return f"{self._name(target)} = u{word[1]}({self._value(source)});"
        if not target.startswith("{"):
            return f"set({self._name(target)}, mov_<{parts[-1]}>({self._value(source)}));"
        kept = [self._name(name) for name in _vector(target) if name != "_"]
        names = ["nothing" if name == "_" else self._name(name) for name in _vector(target)]
        return f"[[maybe_unused]] decltype({kept[0]}) nothing; unpack({self._value(source)}, {', '.join(names)});"

    def _setp(self, parts: list[str], operands: list[str]) -> str:
        target, first, second, *joined = operands
        kind = parts[-1]
        test = f"setp_{parts[0]}<{kind}>({self._value(first)}, {self._value(second)})"
        if (operator := _TESTS.get(parts[0])) and _WORD.fullmatch(kind):
            test = f"({kind}({self._value(first)}) {operator} {kind}({self._value(second)}))"
        join = f" {_JOINS[parts[1]]} {self._predicate(joined[0])}" if joined else ""
        return f"{self._name(target)} = {test}{join};"

    def _cvta(self, parts: list[str], operands: list[str]) -> str:
        target, source = self._name(operands[0]), self._value(operands[1])
        if "shared" not in parts:
            return f"{target} = {source};"
        return f"{target} = {'to_shared' if 'to' in parts else 'from_shared'}({source});"

    def _ld(self, parts: list[str], operands: list[str]) -> str:
        spaces, kind = _SPACES & set(parts), parts[-1]
        if spaces == {"param"}:
            return f"set({self._name(operands[0])}, read<{kind}>({self._place(operands[1])}));"
        order = "fresh" if _FRESH & set(parts) else "weak"
        return f"load<{kind}, {order}>({self._memory(parts, operands[1])}, {', '.join(self._names(operands[0]))});"

    def _st(self, parts: list[str], operands: list[str]) -> str:
        order = "fresh" if _FRESH & set(parts) else "weak"
        return (
            f"store<{parts[-1]}, {order}>({self._memory(parts, operands[0])}, {', '.join(self._values(operands[1]))});"
        )

    def _atom(self, parts: list[str], operands: list[str]) -> str:
        target, place, value = operands
        (verb,) = {"add", "max"} & set(parts)
        made = f"atomic_{verb}<{parts[-1]}>({self._memory(parts, place)}, {self._value(value)})"
        return f"{made};" if target == "_" else f"set({self._name(target)}, {made});"

    def _red(self, parts: list[str], operands: list[str]) -> str:
        return self._atom(parts, ["_", *operands])

    def _shfl(self, parts: list[str], operands: list[str]) -> str:
        target, *values = operands
        target, _, valid = target.partition("|")
        done = f" {self._name(valid)} = true;" if valid else ""
        return f"{self._name(target)} = shuffle_{parts[1]}({', '.join(map(self._value, values))});{done}"

    def _vote(self, parts: list[str], operands: list[str]) -> str:
        return f"{self._name(operands[0])} = vote_{parts[1]}({self._predicate(operands[1])});"

    def _bar(self, parts: list[str], operands: list[str]) -> str:
        if parts[0] == "warp":
            return "warp_sync();"
        number, threads = (*map(self._value, operands), "0")[:2]
        return f'sim::block_arrive("bar.sync", int({number}), int({threads}), sim::Location::current());'

    _barrier = _bar

    def _membar(self, _: list[str], operands: list[str]) -> str:
        return "sim::fence();"

    _fence = _membar

    def _mbarrier(self, parts: list[str], operands: list[str]) -> str:
        verb = parts[0]
        place = next(text for text in operands if text.startswith("["))
        barrier = f"barrier_at({self._place(place)})"
        if verb == "init" and operands[1] == "1":
            return f"barrier_init({barrier});"
        if verb == "arrive" and operands[0] == "_":  # with expect_tx it belongs to the copy that follows
            return "" if "expect_tx" in parts else f"barrier_arrive({barrier});"
        if verb not in ("test_wait", "try_wait"):
            raise UnknownPtxError(f"mbarrier {parts} {operands}")
        return f"{self._name(operands[0])} = {verb}({barrier}, int({self._value(operands[2])}));"

    def _cp(self, parts: list[str], operands: list[str]) -> str:
        if parts[1] == "commit_group":
            return "cp_async_commit();"
        if parts[1] == "wait_group":
            return f"cp_async_wait<{operands[0]}>();"
        places = f"at_shared({self._place(operands[0])}), at_memory({self._place(operands[1])})"
        if parts[1] == "bulk":
            return f"bulk_load({places}, int({self._value(operands[2])}), barrier_at({self._place(operands[3])}));"
        if operands[2:] != ["16"]:
            raise UnknownPtxError(f"cp {parts} {operands}")
        return f"cp_async16({places});"

    def _ldmatrix(self, parts: list[str], operands: list[str]) -> str:
        names = self._names(operands[0])
        twin = f"ldmatrix_x{len(names)}{'_trans' if 'trans' in parts else ''}"
        back = " ".join(f"{name} = r[{i}];" for i, name in enumerate(names))
        return f"u32 r[{len(names)}]; {twin}(r, at_shared({self._place(operands[1])})); {back}"

    def _movmatrix(self, _: list[str], operands: list[str]) -> str:
        return f"{self._name(operands[0])} = transpose8x8({self._value(operands[1])});"

    def _mma(self, parts: list[str], operands: list[str]) -> str:
        shape, kinds = parts[2], [part for part in parts if _TYPE.fullmatch(part)]
        if "block_scale" in parts:
            call = f"mma_nvfp4_k64(d, a, b, {self._values(operands[4])[0]}, {self._values(operands[6])[0]})"
        elif shape == "m16n8k16" and kinds[1] in ("f16", "bf16"):
            call = f"mma_{kinds[1]}_k16(d, a, b)"
        else:
            raise UnknownPtxError(f"mma {parts}")
        sums = "float" if kinds[0] == "f32" else "u32"
        return self._product(sums, operands[0], self._values(operands[3]), operands[1], operands[2], call)

    def _wgmma(self, parts: list[str], operands: list[str]) -> str:
        """It is made where it is issued, the earliest that the ISA allows."""
        columns = 2 * len(_vector(operands[0]))
        if parts[3] != f"m64n{columns}k16" or operands[3:6] != ["1"] * 3 or len(_vector(operands[1])) != 4:
            raise UnknownPtxError(f"wgmma {parts} {operands}")
        lines = "true" if operands[6] == "1" else "false"
        call = f"wgmma<{columns}, {lines}>(d, a, {self._value(operands[2])})"
        return self._product("float", operands[0], self._names(operands[0]), operands[1], None, call)

    def _product(self, kind: str, out: str, sums: list[str], a: str, b: str | None, call: str) -> str:
        before = ", ".join(f"bits_as<{kind}>({value})" for value in sums)
        left = f"const u32 a[] = {{{', '.join(self._names(a))}}};"
        right = f"const u32 b[] = {{{', '.join(self._names(b))}}};" if b else ""
        after = " ".join(f"{name} = bits_as<u32>(d[{i}]);" for i, name in enumerate(self._names(out)))
        return f"{kind} d[] = {{{before}}}; {left} {right} {call}; {after}"


def _plain(name: str) -> str:
    """Of a register or a label, as nothing else in the C++ source is called."""
    return f"{name.lstrip('%$')}_"


def _statements(text: str) -> Iterator[str]:
    """Braces, labels, and what ends with a semicolon, which is left out."""
    at = 0
    while text[at:].strip():
        match = _STATEMENT.match(text, at)
        if match is None:
            raise UnknownPtxError(text[at : at + 200])
        yield next(group for group in match.groups() if group is not None).strip()
        at = match.end()


def _operands(text: str) -> list[str]:
    """Split at the commas that stand in no braces or brackets."""
    return [part.strip() for part in re.findall(r"(?:[^,{\[]|\{[^}]*\}|\[[^\]]*\])+", text) if part.strip()]


def _vector(text: str) -> list[str]:
    """The registers in braces, or the one."""
    return [name.strip() for name in text.strip("{} ").split(",")]
