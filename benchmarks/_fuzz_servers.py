"""What `benchmarks.fuzz` feeds with damaged input: answers of judges and servers, checkpoints."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from benchmarks._fuzz_base import JSON, Reader, Target, by_first_byte, each


def _judge_answers(folder: Path) -> Reader:
    from cxrbench.judges import parsers
    from cxrbench.judges.rubric import Category

    asked = tuple(Category(name=name) for name in ("missed", "added"))
    functions = [*map(parsers.bounded, parsers._PARSERS.values()), lambda text: parsers.values(text, asked)]

    def read(data: bytes) -> object:
        text = data[1:].decode("utf-8", "replace")
        try:
            return functions[data[0] % len(functions)](text) if data else None
        except parsers.Unreadable:  # the documented refusal: a failed call with a reason
            return None

    return read


def _judge_seeds() -> list[bytes]:
    from cxrbench.judges.formulas import ERRORS

    six = dict.fromkeys(ERRORS, 0)
    crimson = {
        "reference_findings": [{"id": "R1", "clinical_significance": "urgent"}],
        "predicted_findings": [],
        "matched_findings": [{"ref_id": "R1", "pred_id": "P1"}],
        "errors": {
            "attribute_errors": [{"ref_id": "R1", "severity": "significant"}],
            "false_findings": ["P2"],
            "missing_findings": [{"id": "R2"}],
        },
    }
    green = (
        "[Explanation]:\nx\n\n[Clinically Significant Errors]:\n(a) False: 1. An effusion.\n(b) Missing: 0.\n\n"
        "[Clinically Insignificant Errors]:\nNo errors.\n\n[Matched Findings]:\n2. Clear lungs; normal heart.\n"
    )
    lines = (
        "clinically significant errors: [(A, 1), (B, 0), (C, 0), (D, 0), (E, 0), (F, 0)]\n"
        "clinically insignificant errors: [(A, 0), (B, 0), (C, 0), (D, 0), (E, 0), (F, 2)]"
    )
    texts = (
        '{"correctness": 4, "completeness": 3, "coherence": 5}',
        json.dumps({"clinically_significant": six, "clinically_insignificant": six}),
        json.dumps(crimson),
        green,
        '{"status": "neutral"}',
        '{"phrases_A_evidenced": [{"status": "entailment"}], "phrases_B_evidenced": []}',
        'Sure: ```{"sentence_list": [{"orig": "a", "new": ["b", "c"]}]}```',
        '{"better": "A"}',
        "**missed**: 2/5\nadded = 1\n",
    )
    return [*(bytes([number]) + text.encode() for number, text in enumerate(texts)), *each(1, lines.encode())]


def _http_answer(folder: Path) -> Reader:
    from cxrbench.http_answer import model_names, read_response

    statuses = (200, 200, 200, 400, 413, 429, 500, 302, 401)

    def read(data: bytes) -> object:
        if len(data) < 2:
            return None
        cut = data[1]
        headers = {"retry-after": data[2 : 2 + cut % 32].decode("latin-1")}
        body = data[2 + cut % 32 :]
        return read_response(statuses[data[0] % len(statuses)], headers, body, 0.0), model_names(body)

    return read


def _http_seeds() -> list[bytes]:
    made = {
        "id": "1",
        "model": "m",
        "system_fingerprint": "f",
        "usage": {"prompt_tokens": 1, "completion_tokens": 2},
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Clear."}, "finish_reason": "stop"}],
    }
    error = {"error": {"code": "context_length_exceeded", "type": "x", "innererror": {"code": "content_filter"}}}
    return [
        b"\0\0" + json.dumps(made).encode(),
        b"\3\0" + json.dumps(error).encode(),
        b"\5\x1d" + b"Wed, 21 Oct 2015 07:28:00 GMT" + json.dumps(error).encode(),
        b'\0\0{"data": [{"id": "m"}]}',
    ]


# Checkpoints


def _checkpoint(folder: Path) -> Reader:
    from cxrbench.models.checkpoint import _tensor_digests, open_folder
    from cxrbench.models.recognise import describe
    from cxrbench.models.shards import Shards, find_files

    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    (folder / "shard.safetensors").write_bytes(
        safetensors({"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}})
    )
    (folder / "config.json").write_text('{"model_type": "llama"}')

    def read_index(data: bytes) -> object:
        single.unlink(missing_ok=True)
        index.write_bytes(data)
        open_folder(str(folder))
        return Shards(find_files(folder)).names()

    def read_file(data: bytes) -> object:
        index.unlink(missing_ok=True)
        single.write_bytes(data)
        found = open_folder(str(folder))
        Shards(find_files(folder)).names()
        return [digest for file in found.weights for digest in _tensor_digests(file)]

    def read_header(data: bytes) -> object:
        """A header of the right length before as many bytes as it speaks of, so that more than the length is tried."""
        return read_file(struct.pack("<Q", len(data)) + data + bytes(_said(data)))

    def read_config(data: bytes) -> object:
        single.unlink(missing_ok=True)
        index.write_text('{"weight_map": {"a": "shard.safetensors"}}')
        (folder / "config.json").write_bytes(data)
        try:
            return describe(folder), open_folder(str(folder))
        finally:
            (folder / "config.json").write_text('{"model_type": "llama"}')

    return by_first_byte((read_index, read_file, read_header, read_config))


def safetensors(header: object) -> bytes:
    """A safetensors file with this header and zeros for data."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(_said(text))


def _said(header: bytes) -> int:
    """How many bytes of data a header speaks of, a few thousand at most."""
    try:
        ends = [body["data_offsets"][1] for name, body in json.loads(header).items() if name != "__metadata__"]
        return max(0, min(int(max(ends, default=0)), 4096))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError):
        return 0


def _checkpoint_seeds() -> list[bytes]:
    header = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
        "b": {"dtype": "U8", "shape": [4], "data_offsets": [16, 20]},
    }
    return [
        *each(0, b'{"metadata": {"total_size": 2}, "weight_map": {"a": "shard.safetensors"}}'),
        *each(1, safetensors(header)),
        *each(2, json.dumps(header).encode()),
        *each(3, b'{"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"]}'),
    ]


SERVERS = (
    Target(
        "judge-answers",
        "answers of judges, every parser",
        _judge_answers,
        _judge_seeds,
        (*JSON, "1e400", "clinically significant errors: [", "(A, 1)", "[Matched Findings]:"),
        1200,
    ),
    Target("http-answers", "responses of servers", _http_answer, _http_seeds, JSON),
    Target(
        "checkpoint",
        "checkpoint index, safetensors header, config.json",
        _checkpoint,
        _checkpoint_seeds,
        (*JSON, "../", "data_offsets", "dtype", "shape"),
    ),
)
