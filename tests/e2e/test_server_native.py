"""llama-server's own paths, and every path under random bodies from our own description of them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import schemathesis
import tokenizers
from hypothesis import HealthCheck, given, settings
from test_server import Server, ask, events, running, serving, wait_for
from test_server_openai import TEMPLATE, TOOLS, reply_to

from fake_engine import CONTEXT, FakeEngine, encode, reference_tokenizer, write_tiny_artifact
from imp_runtime.artifact import Artifact
from imp_server.model import Model

ROUNDING = "rounded by imp from BF16"
FIM = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|file_sep|>")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_tiny_artifact(
        tmp_path_factory.mktemp("server") / "tiny.impc", blobs={"chat_template.jinja": TEMPLATE}, rounding=ROUNDING
    )


@pytest.fixture(scope="module")
def server(artifact: Artifact) -> Iterator[Server]:
    with running(artifact, reply=reply_to) as server:
        yield server


def post(server: Server, path: str, **body: object) -> dict[str, object]:
    response = server.http.post(path, json=body).raise_for_status()
    answer: dict[str, object] = response.json()
    return answer


def test_tokenize_and_back(server: Server) -> None:
    text = "Hello 🙂 <|im_end|>x"
    assert post(server, "/tokenize", content=text) == {"tokens": encode(text)}
    assert post(server, "/tokenize", prompt=text)["tokens"] == encode(text)
    counted = post(server, "/tokenize", prompt="ab", return_token_strs=True)
    assert (counted["count"], counted["max_model_len"]) == (len(encode("ab")), CONTEXT)
    plain = post(server, "/tokenize", content=text, parse_special=False)["tokens"]
    assert isinstance(plain, list)
    assert reference_tokenizer().decode(plain, skip_special_tokens=True) == text
    pieces = post(server, "/tokenize", content="a🙂", with_pieces=True)["tokens"]
    assert isinstance(pieces, list)
    assert [piece["id"] for piece in pieces] == encode("a🙂")
    raw = b"".join(
        piece["piece"].encode() if isinstance(piece["piece"], str) else bytes(piece["piece"]) for piece in pieces
    )
    assert raw.decode() == "a🙂"
    back = post(server, "/detokenize", tokens=encode(text))
    assert back == {"content": text, "prompt": text}


def test_templates(server: Server) -> None:
    answer = post(server, "/apply-template", messages=ask("x"), tools=TOOLS)
    assert str(answer["prompt"]).endswith("<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n")
    assert "get_time" in str(answer["prompt"])
    server.http.post("/v1/chat/completions", json={"messages": ask("x"), "tools": TOOLS}).raise_for_status()
    assert tuple(encode(str(answer["prompt"]))) == server.engine.prompts[-1]
    tokens = post(server, "/tokenize", messages=ask("x"), tools=TOOLS)["tokens"]
    assert tokens == list(server.engine.prompts[-1])


def test_a_template_of_its_own_for_tools(tmp_path: Path) -> None:
    own = "{% for t in tools %}[{{ t.function.name }}]{% endfor %}{% for m in messages %}{{ m.content }}!{% endfor %}"
    blobs = {"chat_template.jinja": TEMPLATE, "chat_template.tool_use.jinja": own.encode()}
    with running(write_tiny_artifact(tmp_path / "tiny.impc", blobs=blobs)) as server:
        assert post(server, "/apply-template", messages=ask("x"), tools=TOOLS)["prompt"] == "[get_time]x!"
        plain = str(post(server, "/apply-template", messages=ask("x"))["prompt"])
        assert plain.endswith("<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n")
        assert post(server, "/apply-template", messages=ask("x"), tools=TOOLS, tool_choice="none")["prompt"] == plain


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {}),
        ("/tokenize", {"content": 5}),
        ("/detokenize", {"tokens": [-1]}),
        ("/detokenize", {"tokens": [512]}),
        ("/detokenize", {}),
        ("/apply-template", {"messages": "x"}),
        ("/infill", {"input_prefix": "x"}),
    ],
)
def test_bad_bodies(server: Server, path: str, body: object) -> None:
    response = server.http.post(path, json=body)
    assert response.status_code == 400
    assert set(response.json()) == {"error"}


def test_props_slots_health(server: Server) -> None:
    props = server.http.get("/props").json()
    assert props["default_generation_settings"]["n_ctx"] == CONTEXT
    assert props["chat_template"].encode() == TEMPLATE
    assert props["model_weights"] == f"Q8_0, {ROUNDING}"
    assert (props["free_slots"], props["free_kv_blocks"]) == (4, CONTEXT // 16 - 1)
    assert (props["total_slots"], props["modalities"]) == (4, {"vision": False, "audio": False})
    assert [slot["is_processing"] for slot in server.http.get("/slots").json()] == [False] * 4
    for path in ("/health", "/v1/health", "/ready"):
        assert server.http.get(path).json() == {"status": "ok"}
    assert server.http.head("/").status_code == 200


def test_infill_without_marks(server: Server) -> None:
    body = {"input_prefix": "a", "input_suffix": "b"}
    response = server.http.post("/infill", json=body)
    assert response.status_code == 501
    assert "filling in the middle" in response.json()["error"]["message"]
    assert server.http.post("/v1/completions", json={"prompt": "a", "suffix": "b"}).status_code == 501


def test_infill(tmp_path_factory: pytest.TempPathFactory) -> None:
    tokenizer = tokenizers.Tokenizer.from_str(reference_tokenizer().to_str())
    stored = json.loads(tokenizer.to_str())
    for mark, token in zip(FIM, (300, 301, 302, 303), strict=True):  # four words of the vocabulary give up their places
        old = next(word for word, index in stored["model"]["vocab"].items() if index == token)
        del stored["model"]["vocab"][old]
        stored["model"]["merges"] = [
            merge for merge in stored["model"]["merges"] if old not in ("".join(merge), *merge)
        ]
        stored["model"]["vocab"][mark] = token
        template = {"id": token, "content": mark, "single_word": False, "lstrip": False, "rstrip": False}
        stored["added_tokens"].append({**template, "normalized": False, "special": token < 302})
    stored["added_tokens"].sort(key=lambda added: added["id"])
    path = tmp_path_factory.mktemp("fim") / "tiny.impc"
    artifact = write_tiny_artifact(path, blobs={"tokenizer.json": json.dumps(stored).encode()})
    with running(artifact, reply=lambda _: encode("x=1\n")) as server:
        body = {"input_prefix": "a 9", "input_suffix": "9 b", "n_predict": 8, "stop": ["\n"]}
        answer = post(server, "/infill", **body)
        assert (answer["content"], answer["stop"], answer["stop_type"]) == ("x=1", True, "word")
        prompt = server.engine.prompts[-1]
        assert [each for each in prompt if each in (300, 301, 302)] == [300, 301, 302]
        assert prompt[0] == 300
        assert prompt[-1] == 302
        *chunks, last = [
            json.loads(each) for each in events(server.http.post("/infill", json={**body, "stream": True}).text)
        ]
        assert "".join(chunk["content"] for chunk in chunks) == "x=1"
        assert last["stop"] is True
        answer = server.client.completions.create(model="tiny", prompt="a 9", suffix="9 b", max_tokens=8)
        assert answer.choices[0].text == "x=1\n"
        assert server.engine.prompts[-1] == prompt
    for mark in (300, 302, 303):  # the model goes on with something else
        with running(artifact, reply=lambda _, mark=mark: [*encode("x=1\n"), mark, *encode("another file")]) as server:
            answer = post(server, "/infill", input_prefix="a 9", input_suffix="9 b", n_predict=40)
            assert (answer["content"], answer["stop_type"]) == ("x=1\n", "eos")
            answer = server.client.completions.create(model="tiny", prompt="a 9", suffix="9 b", max_tokens=40)
            assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("x=1\n", "stop")
            answer = post(server, "/infill", input_prefix="a 9", input_suffix="9 b", n_predict=40, ignore_eos=True)
            assert "another file" in str(answer["content"])


def test_slots_show_who_works(artifact: Artifact) -> None:
    with running(artifact, reply=lambda _: encode("word " * 100), seconds_per_step=0.01) as server:
        with server.http.stream(
            "POST", "/v1/completions", json={"prompt": "x", "max_tokens": 300, "stream": True}
        ) as r:
            pieces = r.iter_bytes()
            next(pieces)
            server.engine.live[0].slot = 2
            server.engine.live[0].prompt_cached = 1
            slots = httpx.get(f"{server.url}/slots").json()
            assert [slot["is_processing"] for slot in slots] == [False, False, True, False]
            assert (slots[2]["n_prompt_tokens"], slots[2]["n_prompt_tokens_cache"]) == (1, 1)
        wait_for(lambda: not server.engine.live)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/completions"])
def test_leaving_before_the_first_token(artifact: Artifact, stream: bool, path: str) -> None:
    """The engine has the request, and nothing has come of it."""

    class Silent(FakeEngine):
        def step(self) -> list[object]:  # type: ignore[override]
            time.sleep(0.01)
            return []

    engine = Silent(artifact, lambda _: [])
    given: dict[str, object] = {"messages": ask("x"), "max_tokens": 9}
    given = {"input": "x"} if "responses" in path else {"prompt": "x"} if path == "/v1/completions" else given
    body = {**given, "stream": stream}
    with serving(lambda: Model(engine)) as url:  # type: ignore[arg-type]
        wait_for(lambda: httpx.get(f"{url}/health").status_code == 200)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}{path}", json=body, timeout=httpx.Timeout(5, read=0.15))
        assert wait_for(lambda: not engine.live) < 0.1
        assert engine.aborted.is_set()


def test_random_bodies_by_our_own_description(server: Server) -> None:
    """Whatever fits the schema or nearly so is answered or refused, and never breaks the server."""
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) == 19
    for operation in operations:
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
            if mode is schemathesis.GenerationMode.NEGATIVE and operation.method.upper() == "GET":
                continue

            @settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck), database=None)
            @given(case=operation.as_strategy(generation_mode=mode))
            def one(case: schemathesis.Case) -> None:
                if isinstance(case.body, dict):
                    case.body.pop("model", None)
                    case.body |= (
                        {"max_tokens": 2, "max_completion_tokens": 2, "n": 1} if "max_tokens" in case.body else {}
                    )
                response = case.call(timeout=10)
                assert response.status_code < 500 or response.status_code == 501, (case.path, case.body, response.text)
                if response.status_code >= 400:
                    assert "error" in response.json()

            one()
