"""SASS to C++: what ptxas has made of a kernel, for the simulator's engine to run.

A register becomes a variable of its thread, uniform ones too, an instruction a statement over the twins of `machine.h`
here and in tests/ptx. An instruction or a modifier that is not known is an UnknownSassError, never a guess.

Not modelled: when things happen (scoreboards, stalls, reuse caches), and that a warp's lanes run together. A lane runs
alone to the next instruction where all 32 meet, so what a warp does once for those lanes that are there (votes of the
active, elections, uniform registers) it does for itself. Where ptxas leaves out a warp's barrier, as its lanes are
together, it leaves a NOP, and there they meet. Products are made where they are issued.
Sources: what nvdisasm prints; NVIDIA's CUDA Binary Utilities (names of the instructions); their meaning is that of the
PTX they are made of.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

_SECTION = re.compile(r"^\.text\.(\w+):\n(.*?)(?=^//-----|\Z)", re.MULTILINE | re.DOTALL)
_LINE = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")
_LABEL = re.compile(r"^([.$][\w.$]+):")
_REGISTER = re.compile(r"U?R(\d+|Z)")
_PREDICATE = re.compile(r"!?U?P(\d|T)")
_IMMEDIATE = re.compile(r"-?(0x[0-9a-f]+|\d+)")
_REAL = re.compile(r"[-+]?(\d+(\.\d+)?(e[-+]\d+)?|INF|QNAN)")
_CONSTANT = re.compile(r"c\[0x0\]\[(?:(U?R\d+)\+?|U?RZ\+?)?(0x[0-9a-f]+)?\]")

# What says how, how fast or in what order something is done.
_NOTHING = {
    *("ACQBULK", "BREAK", "BSSY", "BSYNC", "CCTL", "CGAERRBAR", "ERRBAR", "FENCE", "PREEXIT"),
    *("WARPGROUP", "YIELD", "ENDCOLLECTIVE", "WARPSYNC.COLLECTIVE"),
}
_HINTS = {"E", "CONSTANT", "NA", "EF", "EL", "LU", "LTC64B", "LTC128B", "LTC256B", "BYPASS", "reuse", "NODEP"}
_WIDTHS = {"U8": "u8", "S8": "s8", "U16": "u16", "S16": "s16", "64": "64", "128": "128"}
_TESTS = {"EQ": "==", "NE": "!=", "LT": "<", "LE": "<=", "GT": ">", "GE": ">="}
_JOINS = {"AND": "&", "OR": "|", "XOR": "^"}
_ROUNDS = {"RP": "FE_UPWARD", "RM": "FE_DOWNWARD", "RZ": "FE_TOWARDZERO"}
_SPECIAL = {
    "SR_TID.X": "u32(thread_index())",
    "SR_TID.Y": "0u",
    "SR_TID.Z": "0u",
    "SR_LANEID": "u32(lane_index())",
    "SR_LTMASK": "(1u << lane_index()) - 1",
    "SR_CgaCtaId": "0u",
    "SR_SWINHI": "shared_window",
} | {f"SR_CTAID.{axis}": f"u32(sim::current->block->index[{i}])" for i, axis in enumerate("XYZ")}


class UnknownSassError(Exception):
    """SASS that this reader does not know."""


@dataclass(frozen=True)
class Parameters:
    """Where a kernel's parameters begin in its bank of constants, their bytes, and whether they are one struct."""

    base: int
    size: int
    packed: bool


def translate(cubin: bytes, disassembly: str) -> dict[str, str]:
    """Of each kernel its C++, which needs both `machine.h` before it; `disassembly` is what nvdisasm -c says."""
    made = {}
    of_kernel = parameters(cubin)
    for name, text in _SECTION.findall(disassembly):
        body = statements(name, of_kernel[name], list(instructions(text)))
        made[name] = f"namespace of_{name} {{\nusing namespace imp;\nusing namespace imp::machine;\n{body}}}\n"
    if not made:
        raise UnknownSassError("no kernel")
    return made


def parameters(cubin: bytes) -> dict[str, Parameters]:
    """Of each kernel, from the sections .nv.info of an ELF file of 64 bits."""
    (start,) = struct.unpack_from("<Q", cubin, 40)
    size, count, names = struct.unpack_from("<HHH", cubin, 58)
    headers = [struct.unpack_from("<IIQQQQ", cubin, start + size * i) for i in range(count)]
    text = headers[names][4]
    found = {}
    for name, _, _, _, offset, length in headers:
        title = cubin[text + name : cubin.index(b"\0", text + name)].decode()
        if title.startswith(".nv.info."):
            found[title.removeprefix(".nv.info.")] = _parameters(cubin[offset : offset + length])
    return found


def _parameters(info: bytes) -> Parameters:
    at, base, total, sizes = 0, 0, 0, []
    while at < len(info):
        form, attribute, value = struct.unpack_from("<BBH", info, at)
        content = info[at + 4 : at + 4 + value]
        at += 4 + (value if form == 4 else 0)
        if (form, attribute) == (4, 0x0A):  # EIATTR_PARAM_CBANK: symbol, offset, size
            _, base, total = struct.unpack("<IHH", content)
        elif (form, attribute) == (4, 0x17):  # EIATTR_KPARAM_INFO: index, ordinal, offset, flags with the size
            sizes.append(struct.unpack("<IHHI", content)[3] >> 18)
    packed = total != 8 * len(sizes)  # of a large one there is no such entry
    if packed and len(sizes) > 1:
        raise UnknownSassError(f"parameters of {sizes} bytes")
    return Parameters(base, total, packed)


@dataclass(frozen=True)
class Instruction:
    """One of a kernel, with the labels before it, its address and the predicate that it depends on."""

    labels: tuple[str, ...]
    address: int
    guard: str | None
    opcode: str
    operands: tuple[str, ...]

    @property
    def text(self) -> str:
        """As it was written."""
        return f"{self.opcode} {', '.join(self.operands)}"


def instructions(text: str) -> Iterator[Instruction]:
    """What nvdisasm says of a kernel."""
    labels: list[str] = []
    for line in text.splitlines():
        if match := _LABEL.match(line):
            labels.append(match[1])
        elif match := _LINE.match(re.sub(r'\(\*".*"\*\)', "", line)):
            operands = tuple(part.strip() for part in match[4].replace(".reuse", "").split(",") if part.strip())
            yield Instruction(tuple(labels), int(match[1], 16), match[2], match[3], operands)
            labels = []
        elif re.match(r"\s*/\*", line):
            raise UnknownSassError(line)


def statements(name: str, given: Parameters, lines: list[Instruction]) -> str:
    """A kernel's function. UnknownSassError for an instruction or a modifier that is not known."""
    return _Kernel(name, given, lines).source()


@dataclass
class _Kernel:
    name: str
    parameters: Parameters
    instructions: list[Instruction]
    registers: set[str] = field(default_factory=set)
    predicates: set[str] = field(default_factory=set)
    returns: set[int] = field(default_factory=set)
    alone: set[str] = field(default_factory=set)  # registers that hold the lane's own mask, or its number

    def source(self) -> str:
        self.returns = {each.address + 16 for each in self.instructions if each.opcode.startswith("CALL")}
        lines = []
        for index, each in enumerate(self.instructions):
            lines += [f"{_label(label)}:;" for label in each.labels]
            if each.address in self.returns:
                lines.append(f"at_{each.address:x}:;")
            try:
                made = self._statement(index, each)
            except (AttributeError, KeyError, ValueError, IndexError, TypeError, UnknownSassError) as error:
                raise UnknownSassError(f"{self.name} at {each.address:#x}: {each.text} ({error!r})") from None
            if made:
                condition = f"if ({self._predicate(each.guard)}) " if each.guard else ""
                lines.append(f"  {condition}{{ {made} }}")
        variables = "".join(f"  u32 {name} = 0;\n" for name in sorted(self.registers))
        variables += "".join(f"  bool {name} = false;\n" for name in sorted(self.predicates))
        body = "\n".join(lines)
        return f"{self._head()}{variables}  u32 from = 0;\n{body}\n  {self._ways_back()}\n}}\n"

    def _head(self) -> str:
        bank = "  alignas(16) [[maybe_unused]] u8 local[local_bytes];\n"
        if self.parameters.packed:
            kind = f"Packed_{self.name}"
            head = f"struct alignas(8) {kind} {{ u8 bytes[{self.parameters.size}]; }};\n"
            return f'{head}extern "C" void {self.name}({kind} given) {{\n{bank}  const u8* bank = given.bytes;\n'
        names = [f"given{i}" for i in range(self.parameters.size // 8)]
        declared = ", ".join(f"u64 {name}" for name in names)
        bank += f"  const u64 values[] = {{{', '.join(names) or 0}}};\n"
        bank += "  const u8* bank = reinterpret_cast<const u8*>(values);\n"
        return f'extern "C" void {self.name}({declared}) {{\n{bank}'

    def _ways_back(self) -> str:
        cases = " ".join(f"case {address:#x}: goto at_{address:x};" for address in sorted(self.returns))
        return f"return;\nback: switch (from) {{ {cases} default: fail_at(__LINE__); }}"

    def _statement(self, index: int, each: Instruction) -> str:
        base, *modifiers = each.opcode.split(".")
        if base in _NOTHING or each.opcode in _NOTHING:
            if base == "WARPGROUP" and modifiers[0] not in ("ARRIVE", "DEPBAR"):
                raise UnknownSassError("of warpgroups")
            return ""
        if base == "NOP":
            return "warp_sync();" if self._meets(index) else ""
        uniform = {"ULDC": "LDC", "LDCU": "LDC", "UFLO": "FLO", "UPOPC": "POPC", "S2UR": "S2R"}
        known = uniform.get(base, base[1:] if base in _UNIFORM else base)
        known = {"UVIADD": "VIADD"}.get(known, known)
        method: Callable[[list[str], list[str]], str] = getattr(self, f"_{known.lower()}")
        if base == "REDUX" and self._is_led(index):
            self.alone.add(each.operands[0])
        elif each.operands and (each.operands[0] in self.alone) and known not in ("VOTEU", "FLO"):
            self.alone.discard(each.operands[0])
        return method([m for m in modifiers if m not in _HINTS], list(each.operands))

    def _meets(self, index: int) -> bool:
        """Whether a NOP is what is left of a warp's barrier; others are before BSYNC, or about barriers in memory."""
        around = [each.opcode for each in self.instructions[max(0, index - 4) : index + 10]]
        follows = [each.opcode for each in self.instructions[index + 1 : index + 2]]
        if not self.instructions[index].labels or not follows or any(name.startswith("SYNCS.EXCH") for name in around):
            return False
        before = self.instructions[index - 1].opcode
        return not follows[0].startswith(("BSYNC", "NOP", "ENDCOLLECTIVE")) and not before.startswith("SYNCS.CCTL")

    def _is_led(self, index: int) -> bool:
        """Whether a sum is what one lane, elected by the mask of those that are there, adds to memory for all."""
        names = {self.instructions[index].operands[0]}
        for at in range(index + 1, min(index + 80, len(self.instructions))):
            each = self.instructions[at]
            if each.opcode in ("MOV", "IMAD.U32", "IMAD.MOV.U32") and names & set(each.operands[1:]):
                names.add(each.operands[0])
            elif each.opcode.startswith(("ATOM", "RED")) and names & set(each.operands) and each.guard:
                past = self.instructions[:at]
                test = next(other for other in reversed(past) if other.operands[:1] == (each.guard,))
                elected = {other.operands[0] for other in past if other.opcode in ("FLO.U32", "UFLO.U32")}
                return test.opcode.startswith("ISETP.EQ") and bool(elected & set(test.operands))
        return False

    # Operands.

    def _register(self, text: str, offset: int = 0) -> str:
        """A register's variable, or 0; one behind it for wider values."""
        match = _REGISTER.fullmatch(text)
        if match is None:
            raise UnknownSassError(f"register {text}")
        if match[1] == "Z":
            return "0u"
        name = f"{'UR' if text.startswith('U') else 'R'}{int(match[1]) + offset}"
        self.registers.add(name)
        return name

    def _target(self, text: str, offset: int = 0) -> str:
        name = self._register(text, offset)
        return "nowhere" if name == "0u" else name

    def _predicate(self, text: str) -> str:
        match = _PREDICATE.fullmatch(text)
        if match is None:
            raise UnknownSassError(f"predicate {text}")
        name = text.removeprefix("!")
        if match[1] == "T":
            return "false" if text.startswith("!") else "true"
        self.predicates.add(name)
        return text

    def _set_predicate(self, text: str, value: str) -> str:
        return "" if text in ("PT", "UPT") else f"{self._predicate(text)} = {value};"

    def _constant(self, text: str, kind: str, further: int = 0) -> str | None:
        match = _CONSTANT.fullmatch(text)
        if match is None:
            return None
        offset = int(match[2] or "0", 16) + further
        base = self.parameters.base
        if match[1]:
            return f"parameter<{kind}>(bank, {self._register(match[1])} + {offset - base}, {self.parameters.size})"
        if base <= offset < base + self.parameters.size:
            return f"parameter<{kind}>(bank, {offset - base}, {self.parameters.size})"
        threads, grid, stack, descriptor = (0, 0xC, 0x28, 0x208) if base == 0x210 else (0x360, 0x370, 0x37C, 0x358)
        fixed = {threads: "block_threads()", stack: "local_bytes", descriptor: "0"}
        fixed |= {grid + 4 * i: f"sim::current->block->grid[{i}]" for i in range(3)}
        return f"{kind}({fixed[offset]})"

    def _word(self, text: str) -> str:
        """32 bits."""
        if text.startswith("-") and not _IMMEDIATE.fullmatch(text):
            return f"(0u - {self._word(text[1:])})"
        if text.startswith("~"):
            return f"(~{self._word(text[1:])})"
        if (constant := self._constant(text, "u32")) is not None:
            return constant
        if _IMMEDIATE.fullmatch(text):
            return f"{int(text, 0) & 0xFFFFFFFF:#x}u"
        return self._register(text)

    def _wide(self, text: str) -> str:
        """64 bits of two registers."""
        if text.startswith("-") and not _IMMEDIATE.fullmatch(text):
            return f"(u64{{0}} - {self._wide(text[1:])})"
        if text.startswith("~"):
            return f"(~{self._wide(text[1:])})"
        if (constant := self._constant(text, "u64")) is not None:
            return constant
        if _IMMEDIATE.fullmatch(text):
            return f"u64{{{int(text, 0) & 0xFFFFFFFFFFFFFFFF:#x}ull}}"
        low = self._register(text)
        return "u64{0}" if low == "0u" else f"pair({low}, {self._register(text, 1)})"

    def _set_wide(self, text: str, value: str) -> str:
        if text in ("RZ", "URZ"):
            return f"(void)({value});"
        return f"unpack({value}, {self._register(text)}, {self._register(text, 1)});"

    def _set(self, text: str, value: str) -> str:
        return f"{self._target(text)} = {value};" if text not in ("RZ", "URZ") else f"(void)({value});"

    def _real(self, text: str) -> str:
        """A float, its sign and size as said."""
        if match := re.fullmatch(r"(-?)\|(.*)\|", text):
            return f"{match[1]}std::fabs({self._real(match[2])})"
        if _REAL.fullmatch(text):
            return _number(text, "float")
        if text.startswith("-"):
            return f"negated({self._real(text[1:])})"
        return f"as_float({self._word(text)})"

    def _double(self, text: str) -> str:
        if match := re.fullmatch(r"(-?)\|(.*)\|", text):
            return f"{match[1]}std::fabs({self._double(match[2])})"
        if _REAL.fullmatch(text):
            return _number(text, "double")
        if text.startswith("-"):
            return f"(-{self._double(text[1:])})"
        return f"std::bit_cast<double>({self._wide(text)})"

    def _bits(self, text: str) -> str:
        """32 bits of what may be a float."""
        if text == "-RZ":
            return "0x80000000u"
        if text.lstrip("-").startswith("0x") or not (text.startswith(("-", "|")) or _REAL.fullmatch(text)):
            return self._word(text)
        return f"float_to_bits({self._real(text)})"

    def _halves(self, text: str) -> str:
        """Two halves, of which a selector may take one for both."""
        sign, name = ("-", text[1:]) if text.startswith("-") else ("", text)
        name, _, select = name.partition(".")
        if name.startswith("|"):
            raise UnknownSassError(text)
        value = self._word(name)
        if select:
            value = f"twice_{ {'H0_H0': 'low', 'H1_H1': 'high'}[select] }({value})"
        return f"({value} ^ 0x80008000u)" if sign else value

    def _pairs(self, operands: list[str]) -> list[str]:
        """Operands of two halves: a number stands for each, the higher first."""
        made: list[str] = []
        waiting: str | None = None
        for text in operands:
            if _REAL.fullmatch(text):
                if waiting is None:
                    waiting = text
                    continue
                made.append(f"floats_to_half2({_number(text, 'float')}, {_number(waiting, 'float')})")
                waiting = None
            else:
                made.append(self._halves(text))
        if waiting is not None:
            raise UnknownSassError("half a pair")
        return made

    def _split(self, operands: list[str]) -> tuple[str, list[str], list[str], list[str]]:
        """Target, predicates that are set, sources, predicates that are read."""
        outs: list[str] = []
        ins: list[str] = []
        rest = operands[1:]
        while rest and _PREDICATE.fullmatch(rest[0]):
            outs.append(rest.pop(0))
        while rest and _PREDICATE.fullmatch(rest[-1]):
            ins.insert(0, rest.pop())
        return operands[0], outs, rest, ins

    def _address(self, text: str, wide: bool) -> str:
        """Of what stands in brackets."""
        match = re.fullmatch(r"(?:desc\[UR\d+\])?\[(.*)\]", text)
        if match is None:
            raise UnknownSassError(f"address {text}")
        terms = []
        for term in match[1].split("+"):
            if term.endswith(".64"):
                terms.append(self._wide(term.removesuffix(".64")))
            elif _IMMEDIATE.fullmatch(term):
                terms.append(self._wide(term) if wide else self._word(term))
            elif term not in ("URZ", "RZ"):
                terms.append(self._wide(term) if wide and term.startswith("UR") else self._word(term))
        return " + ".join(terms) or "0u"

    def _place(self, text: str, kind: str) -> str:
        return f"at_{kind}({self._address(text, kind in ('memory', 'generic'))})"

    # Moves and arithmetic of integers.

    def _mov(self, modifiers: list[str], operands: list[str]) -> str:
        if modifiers == ["64"]:
            return self._set_wide(operands[0], self._wide(operands[1]))
        _only(modifiers)
        if len(operands) > 2 and operands[2] != "0xf":
            raise UnknownSassError("lanes")
        return self._set(operands[0], self._bits(operands[1]))

    def _cs2r(self, modifiers: list[str], operands: list[str]) -> str:
        if operands[1] != "SRZ" or modifiers not in ([], ["32"]):
            raise UnknownSassError(operands[1])
        return self._set(operands[0], "0u") if modifiers else self._set_wide(operands[0], "u64{0}")

    def _s2r(self, modifiers: list[str], operands: list[str]) -> str:
        return self._set(operands[0], _SPECIAL[operands[1]])

    def _r2ur(self, modifiers: list[str], operands: list[str]) -> str:
        _only(modifiers, "BROADCAST")
        if len(operands) == 3:  # whether the value is another than the one that was taken
            return self._set_predicate(operands[0], "false") + self._set(operands[1], self._word(operands[2]))
        return self._set(operands[0], self._word(operands[1]))

    def _ldc(self, modifiers: list[str], operands: list[str]) -> str:
        count = {"": 1, "64": 2, "128": 4}["".join(modifiers)]
        made = []
        if count == 2 and self._constant(operands[1], "u64") == "u64(0)":
            return self._set_wide(operands[0], "u64{0}")
        for i in range(count):
            value = self._constant(operands[1], "u32", 4 * i)
            if value is None:
                raise UnknownSassError(operands[1])
            made.append(f"const u32 v{i} = {value};")
        return " ".join([*made, *(f"{self._target(operands[0], i)} = v{i};" for i in range(count))])

    def _iadd3(self, modifiers: list[str], operands: list[str]) -> str:
        target, outs, sources, ins = self._split(operands)
        if modifiers == ["64"]:
            if any(each not in ("PT", "UPT") for each in outs) or ins:
                raise UnknownSassError("carries")
            return self._set_wide(target, " + ".join(map(self._wide, sources)))
        _only(modifiers, "X")
        extended = "X" in modifiers
        if ins and not extended:
            raise UnknownSassError("carries")
        terms = " + ".join(f"{'extended' if extended else 'carried'}_term({self._term(each)})" for each in sources)
        terms += "".join(f" + u64{{{self._predicate(each)}}}" for each in ins)
        made = f"const u64 sum = {terms};"
        made += "".join(self._set_predicate(each, f"(sum >> 32) > {i}") for i, each in enumerate(outs))
        return made + self._set(target, "static_cast<u32>(sum)")

    def _term(self, text: str) -> str:
        """A term of a sum of which the carry counts: what is negative is its complement and one."""
        if text.startswith("-") and not _IMMEDIATE.fullmatch(text):
            return f"~{self._word(text[1:])}, true"
        return f"{self._word(text)}, false"

    _iadd = _iadd3

    def _viadd(self, modifiers: list[str], operands: list[str]) -> str:
        _only(modifiers)
        return self._set(operands[0], f"{self._word(operands[1])} + {self._word(operands[2])}")

    def _imad(self, modifiers: list[str], operands: list[str]) -> str:
        target, outs, (a, b, c), ins = self._split(operands)
        unsigned = "U32" in modifiers
        carry = f" + {self._predicate(ins[0])}" if ins and "X" in modifiers else ""
        if len(ins) != ("X" in modifiers):
            raise UnknownSassError("carries")
        if "WIDE" in modifiers or "HI" in modifiers:
            _only(modifiers, "WIDE", "HI", "U32", "X")
            kind = "u64" if unsigned else "s64"
            product = f"product<{kind}>({self._word(a)}, {self._word(b)})"
            if "HI" in modifiers:
                return self._set(target, f"static_cast<u32>(({product} + {self._wide(c)}) >> 32)")
            made = f"const u64 product_ = {product}, added = {self._wide(c)}; u64 sum;"
            made += " const bool over = __builtin_add_overflow(product_, added, &sum);"
            if carry:
                made += f" sum += {self._predicate(ins[0])};"
            if outs:
                made += self._set_predicate(outs[0], "over")
            else:
                made += " (void)over;"
            return made + self._set_wide(target, "sum")
        _only(modifiers, "MOV", "U32", "IADD", "SHL", "X")
        if outs:
            raise UnknownSassError("carries")
        return self._set(target, f"{self._word(a)} * {self._word(b)} + {self._word(c)}{carry}")

    def _iabs(self, modifiers: list[str], operands: list[str]) -> str:
        _only(modifiers)
        return f"const u32 a = {self._word(operands[1])};" + self._set(
            operands[0], "static_cast<s32>(a) < 0 ? 0u - a : a"
        )

    def _idp(self, modifiers: list[str], operands: list[str]) -> str:
        twin = {"4A.S8.S8": "dp4a", "4A.U8.S8": "dp4a_unsigned"}[".".join(modifiers)]
        a, b, c = map(self._word, operands[1:])
        return self._set(operands[0], f"static_cast<u32>({twin}({a}, {b}, static_cast<int>({c})))")

    def _lea(self, modifiers: list[str], operands: list[str]) -> str:
        target, outs, sources, ins = self._split(operands)
        _only(modifiers, "HI", "X", "SX32")
        if ins and "X" not in modifiers:
            raise UnknownSassError("carries")
        a, b, *high, by = sources
        negative = a.startswith("-")
        a, shift = a.removeprefix("-"), int(by, 16)
        if "HI" not in modifiers:
            if "X" in modifiers or negative:
                raise UnknownSassError("form")
            made = f"const u64 sum = u64{{static_cast<u32>({self._word(a)} << {shift})}} + {self._sum_term(b)};"
        else:
            top = (
                f"static_cast<u32>(static_cast<s32>({self._word(a)}) >> 31)"
                if "SX32" in modifiers
                else self._word(high[0])
            )
            if negative:
                raise UnknownSassError("form")
            whole = f"(pair({self._word(a)}, {top}) << {shift} >> 32)"
            made = f"const u64 sum = {whole} + {self._sum_term(b)}"
            made += "".join(f" + {self._predicate(each)}" for each in ins) + ";"
        for each in outs:
            made += self._set_predicate(each, "sum >> 32 != 0")
        return made + self._set(target, "static_cast<u32>(sum)")

    def _sum_term(self, text: str) -> str:
        return f"carried_term({self._term(text)})"

    def _shf(self, modifiers: list[str], operands: list[str]) -> str:
        way, *rest = modifiers
        _only(rest, "W", "HI", "U32", "S32", "U64", "S64")
        (kind,) = {"U32", "S32", "U64", "S64"} & set(rest)
        low, by, high = map(self._word, operands[1:])
        wraps, upper = (str(each in rest).lower() for each in ("W", "HI"))
        twin = f"{ {'L': 'shift_left', 'R': 'shift_right'}[way] }<{kind.lower()}, {wraps}, {upper}>"
        return self._set(operands[0], f"{twin}({low}, {by}, {high})")

    def _lop3(self, modifiers: list[str], operands: list[str]) -> str:
        if modifiers != ["LUT"]:
            raise UnknownSassError("form")
        outs = []
        if _PREDICATE.fullmatch(operands[0]):
            outs.append(operands.pop(0))
        target, a, b, c, table, joined = operands
        made = f"const u32 word = lop3_<u32>({self._word(a)}, {self._word(b)}, {self._word(c)}, {table});"
        for each in outs:
            made += self._set_predicate(each, f"word != 0 || {self._predicate(joined)}")
        return made + self._set(target, "word")

    def _plop3(self, modifiers: list[str], operands: list[str]) -> str:
        _only(modifiers, "LUT")
        first, second, a, b, c, table, other = operands
        made = f"const int index = {self._predicate(a)} << 2 | {self._predicate(b)} << 1 | {self._predicate(c)};"
        made += self._set_predicate(first, f"{table} >> index & 1")
        return made + self._set_predicate(second, f"{other} >> index & 1")

    def _prmt(self, modifiers: list[str], operands: list[str]) -> str:
        _only(modifiers)
        a, selector, b = map(self._word, operands[1:])
        return self._set(operands[0], f"byte_permute({a}, {b}, {selector})")

    def _sel(self, modifiers: list[str], operands: list[str]) -> str:
        target, a, b, which = operands
        if modifiers == ["64"]:
            return self._set_wide(target, f"{self._predicate(which)} ? {self._wide(a)} : {self._wide(b)}")
        _only(modifiers)
        return self._set(target, f"{self._predicate(which)} ? {self._word(a)} : {self._word(b)}")

    def _isetp(self, modifiers: list[str], operands: list[str]) -> str:
        test, *rest = modifiers
        _only(rest, "U32", "S64", "U64", "EX", *_JOINS)
        (join,) = _JOINS.keys() & set(rest)
        first, second, a, b, *ins = operands
        kind = next((each.lower() for each in rest if each in ("U32", "S64", "U64")), "s32")
        value = self._wide if kind.endswith("64") else self._word
        made = f"const auto a = static_cast<{kind}>({value(a)}), b = static_cast<{kind}>({value(b)});"
        joined = self._predicate(ins[0])
        if "EX" in rest:  # of the higher words, where the lower have been compared
            strict = {"GE": "a > b", "GT": "a > b", "LE": "a < b", "LT": "a < b", "EQ": "false", "NE": "a != b"}[test]
            made += f" const bool test = {strict} || (a == b && {self._predicate(ins[1])});"
        else:
            made += f" const bool test = a {_TESTS[test]} b;"
        return made + self._both(first, second, joined, _JOINS[join])

    def _both(self, first: str, second: str, joined: str, join: str) -> str:
        return (
            f" const bool other = {joined};"
            + self._set_predicate(first, f"test {join} other")
            + self._set_predicate(second, f"!test {join} other")
        )

    def _imnmx(self, modifiers: list[str], operands: list[str]) -> str:
        if modifiers not in (["U64"], ["S64"]) or operands[:2] != ["PT", "PT"] or operands[6] != "!PT":
            raise UnknownSassError("form")
        kind = modifiers[0].lower()
        a, b = map(self._wide, operands[3:5])
        return self._set_wide(operands[2], f"static_cast<u64>({self._extreme(operands[5])}<{kind}>({a}, {b}))")

    def _extreme(self, which: str) -> str:
        return (
            f"({self._predicate(which)} ? least : most)"
            if which not in ("PT", "!PT")
            else "least"
            if which == "PT"
            else "most"
        )

    def _vimnmx(self, modifiers: list[str], operands: list[str]) -> str:
        _only(modifiers, "U32", "S32")
        kind = "u32" if "U32" in modifiers else "s32"
        a, b = map(self._word, operands[1:3])
        return self._set(operands[0], f"static_cast<u32>({self._extreme(operands[3])}<{kind}>({a}, {b}))")

    def _viaddmnmx(self, modifiers: list[str], operands: list[str]) -> str:
        _only(modifiers, "U32")
        kind = "u32" if "U32" in modifiers else "s32"
        a, b, c = map(self._word, operands[1:4])
        return self._set(operands[0], f"static_cast<u32>({self._extreme(operands[4])}<{kind}>({a} + {b}, {c}))")

    def _popc(self, modifiers: list[str], operands: list[str]) -> str:
        _only(modifiers)
        return self._set(operands[0], f"static_cast<u32>(std::popcount({self._word(operands[1])}))")

    def _flo(self, modifiers: list[str], operands: list[str]) -> str:
        if modifiers != ["U32"]:
            raise UnknownSassError("form")
        if operands[1] in self.alone:
            self.alone.add(operands[0])
        return self._set(operands[0], f"31u - static_cast<u32>(std::countl_zero({self._word(operands[1])}))")

    def _brev(self, modifiers: list[str], operands: list[str]) -> str:
        _only(modifiers)
        return self._set(operands[0], f"brev_<u32>({self._word(operands[1])})")

    def _p2r(self, modifiers: list[str], operands: list[str]) -> str:
        _only(modifiers)
        target, which, a, mask = operands
        if which != "PR":
            raise UnknownSassError(which)
        bits = " | ".join(f"u32{{{self._predicate(f'P{i}')}}} << {i}" for i in range(7) if int(mask, 16) >> i & 1)
        return self._set(target, f"({self._word(a)} & ~{mask}u) | {bits}")

    def _r2p(self, modifiers: list[str], operands: list[str]) -> str:
        _only(modifiers)
        which, a, mask = operands
        if which != "PR":
            raise UnknownSassError(which)
        made = f"const u32 word = {self._word(a)};"
        return made + "".join(
            f" {self._predicate(f'P{i}')} = word >> {i} & 1;" for i in range(7) if int(mask, 16) >> i & 1
        )

    # Floats.

    def _float(self, modifiers: list[str], operands: list[str], form: str, kind: str) -> str:
        _only(modifiers, "FTZ", *_ROUNDS)
        rounds = next((_ROUNDS[each] for each in modifiers if each in _ROUNDS), None)
        read = self._real if kind == "float" else self._double
        values = ", ".join(map(read, operands[1:]))
        call = (
            f"rounded<{rounds}>([](auto... v) {{ return {form}(v...); }}, {values})" if rounds else f"{form}({values})"
        )
        if "FTZ" in modifiers:
            call = f"flushed({call})"
        if kind == "double":
            return self._set_wide(operands[0], f"std::bit_cast<u64>({call})")
        return self._set(operands[0], f"float_to_bits({call})")

    def _fadd(self, modifiers: list[str], operands: list[str]) -> str:
        return self._float(modifiers, operands, "sum_of", "float")

    def _fmul(self, modifiers: list[str], operands: list[str]) -> str:
        return self._float(modifiers, operands, "product_of", "float")

    def _ffma(self, modifiers: list[str], operands: list[str]) -> str:
        return self._float(modifiers, operands, "fused", "float")

    def _dadd(self, modifiers: list[str], operands: list[str]) -> str:
        return self._float(modifiers, operands, "sum_of", "double")

    def _dmul(self, modifiers: list[str], operands: list[str]) -> str:
        return self._float(modifiers, operands, "product_of", "double")

    def _dfma(self, modifiers: list[str], operands: list[str]) -> str:
        return self._float(modifiers, operands, "fused", "double")

    def _fsel(self, modifiers: list[str], operands: list[str]) -> str:
        _only(modifiers)
        target, a, b, which = operands
        return self._set(target, f"{self._predicate(which)} ? {self._bits(a)} : {self._bits(b)}")

    def _fmnmx(self, modifiers: list[str], operands: list[str]) -> str:
        _only(modifiers, "NAN")
        nan = "_nan" if "NAN" in modifiers else ""
        target, a, b, which = operands
        if which not in ("PT", "!PT"):
            raise UnknownSassError(which)
        verb = "least" if which == "PT" else "most"
        return self._set(target, f"float_to_bits(real_{verb}{nan}({self._real(a)}, {self._real(b)}))")

    def _fsetp(self, modifiers: list[str], operands: list[str], read: Callable[[str], str] | None = None) -> str:
        test, *rest = modifiers
        _only(rest, "FTZ", *_JOINS)
        (join,) = _JOINS.keys() & set(rest)
        first, second, a, b, joined = operands
        read = read or self._real
        kind = "f32" if read == self._real else "f64"
        bits = "float_to_bits" if kind == "f32" else "std::bit_cast<u64>"
        made = f"const bool test = setp_{test.lower()}<{kind}>({bits}({read(a)}), {bits}({read(b)}));"
        return made + self._both(first, second, self._predicate(joined), _JOINS[join])

    def _dsetp(self, modifiers: list[str], operands: list[str]) -> str:
        return self._fsetp(modifiers, operands, self._double)

    def _fchk(self, modifiers: list[str], operands: list[str]) -> str:
        _only(modifiers)
        return self._set_predicate(
            operands[0], f"division_is_hard({self._real(operands[1])}, {self._real(operands[2])})"
        )

    def _mufu(self, modifiers: list[str], operands: list[str]) -> str:
        (which,) = modifiers
        if which == "RCP64H":
            return self._set(operands[0], f"reciprocal_high({self._word(operands[1])})")
        twin = {"EX2": "exp2_flushed", "RCP": "1.0f / ", "RSQ": "rsqrt_fast", "LG2": "::log2f", "SQRT": "::sqrtf"}[
            which
        ]
        return self._set(operands[0], f"float_to_bits({twin}({self._real(operands[1])}))")

    def _frnd(self, modifiers: list[str], operands: list[str]) -> str:
        _only(modifiers, "TRUNC", "FLOOR", "CEIL")
        verb = {"": "nearbyint", "TRUNC": "trunc", "FLOOR": "floor", "CEIL": "ceil"}["".join(modifiers)]
        return self._set(operands[0], f"float_to_bits(std::{verb}({self._real(operands[1])}))")

    def _f2i(self, modifiers: list[str], operands: list[str]) -> str:
        _only(modifiers, "FTZ", "NTZ", "TRUNC", "FLOOR", "CEIL", "U32", "S64", "U64", "F64")
        kind = next((each.lower() for each in modifiers if each in ("U32", "S64", "U64")), "s32")
        verb = next((each.lower() for each in modifiers if each in ("TRUNC", "FLOOR", "CEIL")), "nearbyint")
        value = (self._double if "F64" in modifiers else self._real)(operands[1])
        call = f"to_integer<{kind}>(std::{verb}({value}))"
        if kind.endswith("64"):
            return self._set_wide(operands[0], f"static_cast<u64>({call})")
        return self._set(operands[0], f"static_cast<u32>({call})")

    def _i2f(self, modifiers: list[str], operands: list[str]) -> str:
        _only(modifiers, "RP", "RZ", "S16", "U16", "U8", "S8", "U32", "S64", "U64", "F64", "F32", "S32")
        narrow = {"S16", "U16", "U8", "S8"} & set(modifiers)
        if "RZ" in modifiers and not narrow:
            raise UnknownSassError("rounding")
        kinds = {"S16", "U16", "U8", "S8", "U32", "S64", "U64", "S32"}
        kind = next((each.lower() for each in modifiers if each in kinds), "s32")
        out = "double" if "F64" in modifiers else "float"
        name, _, part = operands[1].partition(".")
        value = self._wide(name) if kind.endswith("64") else self._word(name)
        if part:
            value = f"{value} >> { {'H0': 0, 'H1': 16, 'B0': 0, 'B1': 8, 'B2': 16, 'B3': 24}[part] }"
        value = f"static_cast<{kind}>({value})"
        call = (
            f"rounded<FE_UPWARD>([](auto v) {{ return static_cast<{out}>(v); }}, {value})"
            if "RP" in modifiers
            else f"static_cast<{out}>({value})"
        )
        if out == "double":
            return self._set_wide(operands[0], f"std::bit_cast<u64>({call})")
        return self._set(operands[0], f"float_to_bits({call})")

    _i2fp = _i2f

    def _f2f(self, modifiers: list[str], operands: list[str]) -> str:
        if modifiers == ["F64", "F32"]:
            return self._set_wide(operands[0], f"std::bit_cast<u64>(static_cast<double>({self._real(operands[1])}))")
        if modifiers == ["F32", "F64"]:
            return self._set(operands[0], f"float_to_bits(static_cast<float>({self._double(operands[1])}))")
        if modifiers == ["F16", "F32"]:
            return self._set(operands[0], f"u32{{float_to_half({self._real(operands[1])})}}")
        raise UnknownSassError("form")

    def _f2fp(self, modifiers: list[str], operands: list[str]) -> str:
        form = ".".join(modifiers)
        if form == "F16.E4M3.UNPACK_B":
            return self._set(operands[0], f"e4m3x2_to_half2(static_cast<u16>({self._word(operands[1])}))")
        high, low = map(self._real, operands[1:3])
        if form == "SATFINITE.E4M3.F32.PACK_AB_MERGE_C" and operands[3] == "RZ":
            return self._set(operands[0], f"float_to_e4m3({low}) | float_to_e4m3({high}) << 8")
        if form == "SATFINITE.E2M1.F32.PACK_AB_MERGE_C" and operands[3] == "RZ":
            return self._set(operands[0], f"floats_to_e2m1x2({low}, {high})")
        twins = {"F16.F32.PACK_AB": "floats_to_half2", "BF16.F32.PACK_AB": "floats_to_bfloat2"}
        return self._set(operands[0], f"{twins[form]}({low}, {high})")

    def _hadd2(self, modifiers: list[str], operands: list[str]) -> str:
        _only(modifiers, "F32")
        a, b = self._pairs(operands[1:])
        if modifiers:
            return self._set(operands[0], f"float_to_bits(half_to_float(u16({a})) + half_to_float(u16({b})))")
        return self._set(operands[0], f"half2_subtract({a}, {b} ^ 0x80008000u)")

    def _hmul2(self, modifiers: list[str], operands: list[str]) -> str:
        _only(modifiers)
        a, b = self._pairs(operands[1:])
        return self._set(operands[0], f"half2_multiply({a}, {b})")

    def _hfma2(self, modifiers: list[str], operands: list[str]) -> str:
        _only(modifiers, "MMA")
        a, b, c = self._pairs(operands[1:])
        if operands[1:3] == ["-RZ", "RZ"]:  # a number is moved
            return self._set(operands[0], c)
        return self._set(operands[0], f"half2_fma({a}, {b}, {c})")

    # Memory.

    def _load(self, modifiers: list[str], operands: list[str], kind: str) -> str:
        target, place = operands
        if (target, place) == ("RZ", "[RZ]"):
            return ""
        order = "fresh" if "STRONG" in modifiers else "weak"
        size = [each for each in modifiers if each in _WIDTHS]
        _only(modifiers, "STRONG", "GPU", "SYS", *_WIDTHS)
        width = _WIDTHS[size[0]] if size else "32"
        count = {"64": 2, "128": 4}.get(width, 1)
        if count == 2 and order == "fresh":
            return f"u64 word = 0; load<u64, fresh>({self._place(place, kind)}, word); {self._set_wide(target, 'word')}"
        names = ", ".join(self._target(target, i) for i in range(count))
        element = width if width.startswith(("u", "s")) else "u32"
        return f"load<{element}, {order}>({self._place(place, kind)}, {names});"

    def _store(self, modifiers: list[str], operands: list[str], kind: str) -> str:
        place, value = operands
        order = "fresh" if "STRONG" in modifiers else "weak"
        size = [each for each in modifiers if each in _WIDTHS]
        _only(modifiers, "STRONG", "GPU", "SYS", *_WIDTHS)
        width = _WIDTHS[size[0]] if size else "32"
        count = {"64": 2, "128": 4}.get(width, 1)
        if count == 2 and order == "fresh":
            return f"store<u64, fresh>({self._place(place, kind)}, {self._wide(value)});"
        values = ", ".join(self._register(value, i) for i in range(count))
        element = width.replace("s", "u") if width.startswith(("u", "s")) else "u32"
        return f"store<{element}, {order}>({self._place(place, kind)}, {values});"

    def _ldg(self, modifiers: list[str], operands: list[str]) -> str:
        return self._load(modifiers, operands, "memory")

    def _ld(self, modifiers: list[str], operands: list[str]) -> str:
        return self._load(modifiers, operands, "generic")

    def _lds(self, modifiers: list[str], operands: list[str]) -> str:
        return self._load(modifiers, operands, "window")

    def _ldl(self, modifiers: list[str], operands: list[str]) -> str:
        return self._load(modifiers, [operands[0], operands[1]], "local")

    def _stg(self, modifiers: list[str], operands: list[str]) -> str:
        return self._store(modifiers, operands, "memory")

    def _st(self, modifiers: list[str], operands: list[str]) -> str:
        return self._store(modifiers, operands, "generic")

    def _sts(self, modifiers: list[str], operands: list[str]) -> str:
        if modifiers == ["64"] and "+URZ" in operands[0]:  # how ptxas writes barriers that are not a warp's alone
            begin = f"barrier_begin(barrier_in({self._address(operands[0], False)}), {self._wide(operands[1])});"
            other = self._store(modifiers, operands, "window")
            return f"if ({self._wide(operands[1])} == one_arrival) {{ {begin} }} else {{ {other} }}"
        return self._store(modifiers, operands, "window")

    def _stl(self, modifiers: list[str], operands: list[str]) -> str:
        return self._store(modifiers, operands, "local")

    def _atomg(self, modifiers: list[str], operands: list[str], kind: str = "memory") -> str:
        _only(modifiers, "ADD", "MAX", "64", "STRONG", "GPU", "SYS")
        if operands[0] == "PT":
            operands = operands[1:]
        target, place, value = operands
        verb = modifiers[0].lower()
        if "64" in modifiers:
            return self._set_wide(target, f"atomic_{verb}<u64>({self._place(place, kind)}, {self._wide(value)})")
        return self._set(target, f"atomic_{verb}<u32>({self._place(place, kind)}, {self._word(value)})")

    def _redg(self, modifiers: list[str], operands: list[str]) -> str:
        return self._atomg(modifiers, ["RZ", *operands])

    def _atoms(self, modifiers: list[str], operands: list[str]) -> str:
        if modifiers == ["CAST", "SPIN", "64"]:
            target, place, before, after = operands
            call = f"swapped<u64>({self._place(place, 'window')}, {self._wide(before)}, {self._wide(after)})"
            if _PREDICATE.fullmatch(target):
                return self._set_predicate(target, call)
            return self._set_wide(target, f"u64{{{call}}}")
        return self._atomg(modifiers, operands, "window")

    def _ldgsts(self, modifiers: list[str], operands: list[str]) -> str:
        if modifiers != ["128"] or len(operands) != 2:
            raise UnknownSassError("form")
        return f"cp_async16({self._place(operands[0], 'window')}, {self._place(operands[1], 'memory')});"

    def _ldgdepbar(self, modifiers: list[str], operands: list[str]) -> str:
        return "cp_async_commit();"

    def _depbar(self, modifiers: list[str], operands: list[str]) -> str:
        if modifiers != ["LE"] or operands[0] != "SB0":
            raise UnknownSassError("form")
        return f"cp_async_wait<{int(operands[1], 16)}>();"

    def _ublkcp(self, modifiers: list[str], operands: list[str]) -> str:
        if modifiers != ["S", "G"]:
            raise UnknownSassError("form")
        to, source, size = (text.strip("[]") for text in operands[:3])
        places = f"at_window({self._register(to)}), at_memory({self._wide(source)})"
        barrier = f"barrier_in({self._register(to, 1)})"
        return f"bulk_load({places}, int({self._word(size)}) * 16, {barrier});"

    def _syncs(self, modifiers: list[str], operands: list[str]) -> str:
        form = ".".join(modifiers)
        if form == "CCTL.IVALL":
            return ""
        barrier = f"barrier_in({self._address(operands[1], False)})"
        if form == "EXCH.64":
            return f"barrier_begin({barrier}, {self._wide(operands[2])});"
        if form == "ARRIVE.TRANS64.A1T0":
            return f"barrier_arrive({barrier});"
        if form == "ARRIVE.TRANS64":  # it belongs to the copy that follows
            return ""
        if form in ("PHASECHK.TRANS64.TRYWAIT", "PHASECHK.TRANS64"):
            twin = "try_wait" if "TRYWAIT" in modifiers else "test_wait"
            return self._set_predicate(operands[0], f"{twin}({barrier}, int({self._word(operands[2])} >> 31))")
        raise UnknownSassError("form")

    def _membar(self, modifiers: list[str], operands: list[str]) -> str:
        return "sim::fence();"

    # Warps and blocks.

    def _warpsync(self, modifiers: list[str], operands: list[str]) -> str:
        if modifiers != ["ALL"]:
            raise UnknownSassError("form")
        return "warp_sync();"

    def _bar(self, modifiers: list[str], operands: list[str]) -> str:
        if modifiers != ["SYNC", "DEFER_BLOCKING"]:
            raise UnknownSassError("form")
        number, threads = [*map(self._word, operands), "0"][:2]
        return f"bar_sync({number}, {threads});"

    def _shfl(self, modifiers: list[str], operands: list[str]) -> str:
        valid, target, value, by, bounds = operands
        twin = {"BFLY": "shuffle_bfly", "IDX": "shuffle_idx"}[".".join(modifiers)]
        if by in self.alone:
            return self._set(target, self._word(value))
        made = self._set(target, f"{twin}({self._word(value)}, {self._word(by)}, {self._word(bounds)}, ~0u)")
        return made + self._set_predicate(valid, "true")

    def _vote(self, modifiers: list[str], operands: list[str]) -> str:
        if modifiers != ["ANY"] or operands[1] != "PT":
            raise UnknownSassError("form")
        return self._set(operands[0], f"vote_ballot({self._predicate(operands[2])})")

    def _voteu(self, modifiers: list[str], operands: list[str]) -> str:
        if modifiers == ["ALL"] and len(operands) == 2:
            return self._set_predicate(operands[0], self._predicate(operands[1]))
        target, _, which = operands
        if modifiers != ["ANY"] or which not in ("PT", "!PT"):
            raise UnknownSassError("form")
        if which == "PT":
            self.alone.add(target)
        return self._set(target, "1u << lane_index()" if which == "PT" else "0u")

    def _elect(self, modifiers: list[str], operands: list[str]) -> str:
        return self._set_predicate(operands[0], "true")

    def _redux(self, modifiers: list[str], operands: list[str]) -> str:
        if operands[0] in self.alone:
            return self._set(operands[0], self._word(operands[1]))
        twin = {"MAX": "redux_max_<u32>", "SUM": "redux_add_<u32>", "SUM.S32": "redux_add_<u32>"}[".".join(modifiers)]
        return self._set(operands[0], f"{twin}({self._word(operands[1])}, ~0u)")

    def _usetmaxreg(self, modifiers: list[str], operands: list[str]) -> str:
        return self._set_predicate(operands[0], "true") if modifiers[0] == "TRY_ALLOC" else ""

    # Products.

    def _ldsm(self, modifiers: list[str], operands: list[str]) -> str:
        size, form, count = modifiers
        if size != "16" or form not in ("M88", "MT88"):
            raise UnknownSassError("form")
        twin = f"ldmatrix_x{count}{'_trans' if form == 'MT88' else ''}"
        back = " ".join(f"{self._target(operands[0], i)} = r[{i}];" for i in range(int(count)))
        return f"u32 r[{count}]; {twin}(r, {self._place(operands[1], 'window')}); {back}"

    def _movm(self, modifiers: list[str], operands: list[str]) -> str:
        if modifiers != ["16", "MT88"]:
            raise UnknownSassError("form")
        return self._set(operands[0], f"transpose8x8({self._word(operands[1])})")

    def _hmma(self, modifiers: list[str], operands: list[str]) -> str:
        twins = {
            "16816.F32": ("float", "mma_f16_k16"),
            "16816.F32.BF16": ("float", "mma_bf16_k16"),
            "16816.F16": ("u32", "mma_f16_k16"),
        }
        kind, twin = twins[".".join(modifiers)]
        return self._product(kind, 4 if kind == "float" else 2, operands, f"{twin}(d, a, b)", 2)

    def _omma(self, modifiers: list[str], operands: list[str]) -> str:
        if ".".join(modifiers) != "SF.16864.F32.E2M1.E2M1.UE4M3.4X" or operands[6:] != ["URZ"]:
            raise UnknownSassError("form")
        left, right = map(self._word, operands[4:6])
        return self._product("float", 4, operands, f"mma_nvfp4_k64(d, a, b, {left}, {right})", 2)

    def _hgmma(self, modifiers: list[str], operands: list[str]) -> str:
        shape, kind = modifiers
        match = re.fullmatch(r"64x(\d+)x16", shape)
        right = re.fullmatch(r"gdesc\[UR(\d+)\](\.tnspB)?", operands[2])
        if kind != "F32" or match is None or right is None or not set(operands[4:]) <= {"gsb0", "!UPT"}:
            raise UnknownSassError("form")
        descriptor = self._wide(f"UR{int(right[1]) + 2}")
        call = f"wgmma<{match[1]}, {'true' if right[2] else 'false'}>(d, a, {descriptor} - (reserved_shared >> 4))"
        return self._product("float", int(match[1]) // 2, operands, call, 0)

    def _product(self, kind: str, sums: int, operands: list[str], call: str, right: int) -> str:
        out, a, b, before = operands[:4]
        made = f"{kind} d[] = {{{', '.join(f'bits_as<{kind}>({self._register(before, i)})' for i in range(sums))}}};"
        made += f" const u32 a[] = {{{', '.join(self._register(a, i) for i in range(4))}}};"
        if right:
            made += f" const u32 b[] = {{{', '.join(self._register(b, i) for i in range(right))}}};"
        after = " ".join(f"{self._target(out, i)} = bits_as<u32>(d[{i}]);" for i in range(sums))
        return f"{made} {call}; {after}"

    # Control.

    def _bra(self, modifiers: list[str], operands: list[str]) -> str:
        *conditions, label = operands
        _only(modifiers, "U", "ANY", "DIV")
        if "DIV" in modifiers:  # a warp whose lanes are not together
            return ""
        test = " && ".join(map(self._predicate, conditions))
        return f"{f'if ({test}) ' if test else ''}goto {_label(label[2:-1])};"

    def _call(self, modifiers: list[str], operands: list[str]) -> str:
        if modifiers != ["REL", "NOINC"]:
            raise UnknownSassError("form")
        return f"goto {_label(operands[0][2:-1])};"

    def _ret(self, modifiers: list[str], operands: list[str]) -> str:
        if modifiers != ["REL", "NODEC"]:
            raise UnknownSassError("form")
        name, target = operands[0].split()
        if target != f"`({self.name})":
            raise UnknownSassError(target)
        return f"from = {self._register(name)}; goto back;"

    def _exit(self, modifiers: list[str], operands: list[str]) -> str:
        test = " && ".join(map(self._predicate, operands))
        return f"{f'if ({test}) ' if test else ''}return;"


_UNIFORM = {
    *("UBREV", "UF2FP", "UIADD3", "UIMAD", "UIMNMX", "UISETP", "ULEA", "ULOP3", "UMOV", "UP2UR", "UPLOP3", "UPRMT"),
    *("USEL", "USHF", "UVIADD", "UVIMNMX", "UIADD", "UIABS", "UFSEL", "UFMUL", "UFADD", "UFFMA", "UFSETP"),
}


def _only(modifiers: list[str], *known: str) -> None:
    """UnknownSassError for others."""
    if not set(modifiers) <= set(known):
        raise UnknownSassError(f"modifiers {sorted(set(modifiers) - set(known))}")


def _label(text: str) -> str:
    return "l" + re.sub(r"\W", "_", text)


def _number(text: str, kind: str) -> str:
    if text.lstrip("+-") in ("INF", "QNAN"):
        value = f"std::numeric_limits<{kind}>::{'infinity' if 'INF' in text else 'quiet_NaN'}()"
        return f"-{value}" if text.startswith("-") else value
    return f"{kind}({float(text)!r})"
