"""The model card of a run, and its way to a stand-in of the Hugging Face hub."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from finetune_jax.errors import UserError
from finetune_jax.reports import model_card as report
from finetune_jax.runs import model_card

SUMMARY = {
    "method": "standard",
    "protocol": "classification",
    "network": "resnet26",
    "pretrained": "resnet26_cifar10",
    "dataset": "csv:/home/me/secret place/clothes.csv",
    "images": {"train": 100, "validation": 10, "test": 50},
    "data_digest": "ab12",
    "notes": ["a note"],
    "score": "test_accuracy",
    "selected_on": "validation",
    "best_epoch": 3,
    "epochs_trained": 4,
    "test_loss": 0.5,
    "test_accuracy": 0.8,
    "parameters": 1000,
    "parameters_trained": 900,
    "seconds": 12.3,
    "devices": 1,
}
CARD = {
    "class_names": ["hat", "<b>|_x_"],
    "preprocessing": {"image_size": 32, "resize": 37, "mode": "stretch", "bits": 16},
    "mean": [0.5, 0.5, 0.5],
    "std": [0.2, 0.2, 0.2],
}
FACTS = report.Facts("clothes", SUMMARY, CARD, {"epochs": 4, "image_root": "/home/me"}, {"c.onnx": "onnx"})


def test_a_card_says_how_good_the_network_is_and_names_no_place_of_the_machine() -> None:
    text = report.markdown(FACTS)
    # Wilson (1927) of 40 of 50: (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n) = 0.66963, 0.88756.
    assert "| test accuracy | 80.00 % | 66.96 to 88.76 % |" in text
    assert "100 train, 10 validation, 50 test images" in text
    assert "`csv:clothes.csv`" in text
    assert "/home" not in text
    assert "secret place" not in text
    assert "| `--epochs` | 4 |" in text


def test_the_header_is_yaml_that_the_hub_understands() -> None:
    yaml = pytest.importorskip("yaml")
    _, header, _ = report.markdown(FACTS).split("---\n", 2)
    values = yaml.safe_load(header)
    assert values["pipeline_tag"] == "image-classification"
    (result,) = values["model-index"][0]["results"]
    assert {metric["type"]: metric["value"] for metric in result["metrics"]} == {"accuracy": 0.8, "loss": 0.5}


class Hub(BaseHTTPRequestHandler):
    """The requests that a push consists of, answered as the hub does."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        server: Any = self.server
        server.asked.append((self.path, self.headers.get("authorization"), body))
        answer: dict[str, Any] = {}
        if self.path == "/api/repos/create":
            answer = {"url": f"{server.address}/me/clothes", "name": "me/clothes"}
        elif self.path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            answer = {
                "files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
            }
        elif self.path.split("?")[0].endswith("/commit/main"):
            answer = {
                "commitUrl": f"{server.address}/me/clothes/commit/1",
                "commitOid": "1",
                "hookOutput": "",
            }
        self._send(403 if server.refuses else 200, {"error": "no, not you"} if server.refuses else answer)

    def do_GET(self) -> None:
        self._send(404, {"error": "not found"})

    def _send(self, status: int, answer: dict[str, Any]) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    pytest.importorskip("huggingface_hub")
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked, server.refuses = [], False
    server.address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setenv("HF_TOKEN", "hf_of_this_test")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_files_and_card_are_pushed_in_one_commit_to_a_private_repository(hub: Any) -> None:
    files = {"clothes.onnx": b"\0network", "README.md": report.markdown(FACTS).encode()}
    assert model_card.push("hf:me/clothes", files) == f"{hub.address}/me/clothes/commit/1"
    (created,) = [json.loads(body) for path, _, body in hub.asked if path == "/api/repos/create"]
    assert (created["name"], created["organization"]) == ("clothes", "me")
    assert (
        created.get("private") or created.get("visibility") == "private"
    )  # of version 1 and 2 of the library
    (commit,) = [body for path, _, body in hub.asked if "/commit/main" in path]
    lines = [json.loads(line)["value"] for line in commit.decode().splitlines()]
    sent = {line["path"]: base64.b64decode(line["content"]) for line in lines if "content" in line}
    assert sent == files
    assert {authorization for _, authorization, _ in hub.asked} == {"Bearer hf_of_this_test"}


def test_a_hub_that_refuses_and_a_name_that_is_none_are_told_in_one_sentence(hub: Any) -> None:
    hub.refuses = True
    with pytest.raises(
        UserError, match=r"--push=hf:me/clothes was refused: .*what was written to the disk is there"
    ):
        model_card.push("hf:me/clothes", {"a": b""})
    for name in ("me/clothes", "hf:clothes", "hf:a/b/c", "s3:me/clothes"):
        with pytest.raises(UserError, match="names no repository; give hf:USER/NAME"):
            model_card.repository(name)
