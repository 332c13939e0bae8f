"""Pushing to a hub and loading from it: the hub's client against a small server over real HTTP."""

import base64
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file

from apmae.cli.hub import push
from apmae.errors import ArtifactError, ConfigError, ModelError
from apmae.model.mae import APMAE
from apmae.schema import FORMAT

TOKEN = "hf_aTokenOfThisTest"


class Hub(ThreadingHTTPServer):
    """Repositories in memory, one revision of each; large files go by git-lfs' batch protocol."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories, self.private, self.large, self.messages = {}, {}, {}, []


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_):
        pass

    def reply(self, value, status=200, **headers):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(text))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_POST(self):  # noqa: N802
        body, hub = self.body(), self.server
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.reply({"error": "Invalid username or password."}, 401)
        if self.path == "/api/repos/create":
            wanted = json.loads(body)
            owner = wanted.get("organization") or "somebody"
            if owner != "somebody":
                return self.reply({"error": f"You don't have the rights to create a model under {owner}"}, 403)
            name = f"{owner}/{wanted['name']}"
            made = name not in hub.repositories
            hub.repositories.setdefault(name, {})
            private = wanted.get("visibility") == "private" or wanted.get("private", False)  # newer and older clients
            hub.private.setdefault(name, private)
            return self.reply({"url": f"{hub.url}/{name}", "name": name}, 200 if made else 409)
        if self.path == "/api/validate-yaml":
            head = re.match(r"---\n(.*?)\n---\n", json.loads(body)["content"], re.DOTALL)
            return self.reply({"errors": [] if isinstance(yaml.safe_load(head[1]), dict) else ["no"], "warnings": []})
        if found := re.fullmatch(r"/api/models/(.+)/preupload/main", self.path):
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return self.reply({"files": files})
        if self.path.endswith(".git/info/lfs/objects/batch"):
            upload = [
                {**item, "actions": {"upload": {"href": f"{hub.url}/large/{item['oid']}"}}}
                for item in json.loads(body)["objects"]
            ]
            return self.reply({"transfer": "basic", "objects": upload})
        if found := re.fullmatch(r"/api/models/(.+)/commit/main", self.path):
            files = hub.repositories[found[1]]
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "header":
                    hub.messages.append(value["summary"])
                elif line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = hub.large[value["oid"]]
            sha = hashlib.sha1(b"".join(files.values())).hexdigest()
            return self.reply({"commitUrl": f"{hub.url}/{found[1]}/commit/{sha}", "commitOid": sha})
        return self.reply({"error": f"no {self.path}"}, 404)

    def do_PUT(self):  # noqa: N802
        content = self.body()
        oid = self.path.rpartition("/")[2]
        if hashlib.sha256(content).hexdigest() != oid:
            return self.reply({"error": "another file"}, 400)
        self.server.large[oid] = content
        return self.reply({})

    def do_GET(self):  # noqa: N802
        found = re.match(r"(?:/api/models)?/([^/]+/[^/]+)/(revision|tree|resolve)/[^/]+/?([^?]*)", self.path)
        files = self.server.repositories.get(found[1]) if found else None
        if not files:
            return self.reply({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        sha = hashlib.sha1(b"".join(files.values())).hexdigest()
        if found[2] == "revision":
            siblings = [{"rfilename": name} for name in files]
            return self.reply({"id": found[1], "sha": sha, "siblings": siblings, "tags": [], "private": False})
        if found[2] == "tree":
            rows = [{"type": "file", "path": n, "size": len(c), "oid": sha} for n, c in files.items()]
            return self.reply(rows)
        if found[3] not in files:
            return self.reply({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=sha)
        content = files[found[3]]
        return self.reply(content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=sha)

    do_HEAD = do_GET  # noqa: N815


@pytest.fixture
def hub():
    server = Hub()
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def python(tmp_path):
    """Runs Python or the command line with a hub, in a separate process: the client reads its settings only once."""

    def run(*arguments, endpoint, token=TOKEN):
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        environment |= {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1"}
        environment |= {"HF_TOKEN": token} if token else {}
        return subprocess.run(
            [sys.executable, *map(str, arguments)], capture_output=True, text=True, env=environment, timeout=120
        )

    return run


def test_what_is_pushed_can_be_loaded(tiny, random_patterns, hub, python, tmp_path):
    model, patterns = tiny(), random_patterns(2, 40)
    model.save_pretrained(tmp_path / "encoder")
    pushed = python("-m", "apmae", "push", tmp_path / "encoder", "somebody/encoder", endpoint=hub.url)
    assert pushed.returncode == 0, pushed.stderr
    assert re.fullmatch(rf"{hub.url}/somebody/encoder/commit/\w{{40}}\n", pushed.stdout)
    files = hub.repositories["somebody/encoder"]
    assert set(files) == {"README.md", "config.json", "model.safetensors"}
    for name in ("config.json", "model.safetensors"):
        assert files[name] == (tmp_path / "encoder" / name).read_bytes()
    assert 'APMAE.from_pretrained("somebody/encoder")' in files["README.md"].decode()
    assert hub.messages == ["Upload AP-MAE"]
    patterns.save(tmp_path / "patterns.safetensors")
    code = f"""
import apmae, numpy
mae = apmae.APMAE.from_pretrained("somebody/encoder")
numpy.save({str(tmp_path / "z.npy")!r}, mae.encode(apmae.Patterns.load({str(tmp_path / "patterns.safetensors")!r})))
mae.push_to_hub("again", private=True, message="A copy")
"""
    loaded = python("-c", code, endpoint=hub.url)
    assert loaded.returncode == 0, loaded.stderr
    assert np.array_equal(np.load(tmp_path / "z.npy"), model.encode(patterns))
    assert hub.repositories["somebody/again"] == files  # the card too: it was beside the weights
    assert (hub.private, hub.messages[1:]) == ({"somebody/encoder": False, "somebody/again": True}, ["A copy"])


@pytest.mark.slow
def test_a_repository_can_be_pushed_to_again(tiny, hub, python, tmp_path):
    tiny(0).save_pretrained(tmp_path / "before")
    hub.repositories["somebody/encoder"] = {path.name: path.read_bytes() for path in (tmp_path / "before").iterdir()}
    tiny(1).save_pretrained(tmp_path / "encoder")
    result = python("-m", "apmae", "push", tmp_path / "encoder", "encoder", "--license", "mit", endpoint=hub.url)
    assert result.returncode == 0, result.stderr
    (tmp_path / "pushed").write_bytes(hub.repositories["somebody/encoder"]["model.safetensors"])
    stored = load_file(tmp_path / "pushed")
    assert all((stored[name] == tensor).all() for name, tensor in tiny(1).state_dict().items())
    card = hub.repositories["somebody/encoder"]["README.md"].decode()
    assert yaml.safe_load(card.split("---")[1])["license"] == "mit"
    assert 'from_pretrained("somebody/encoder")' in card  # the hub's full name


def test_a_dry_run_does_not_contact_the_hub(tiny, tmp_path, capsys):
    tiny().save_pretrained(tmp_path)
    push(tmp_path, "somebody/encoder", license_="mit", dry_run=True)
    head, _, card = capsys.readouterr().out.partition("\n\n")
    assert card == APMAE.from_pretrained(tmp_path).model_card("somebody/encoder", license="mit") + "\n"
    listed = {name: int(size.replace(",", "")) for size, name in re.findall(r"([\d,]+) bytes  (\S+)", head)}
    sizes = {name: (tmp_path / name).stat().st_size for name in ("config.json", "model.safetensors")}
    assert listed == {**sizes, "README.md": len(card.encode()) - 1}
    assert {path.name for path in tmp_path.iterdir()} == set(sizes)


@pytest.mark.slow
def test_refused_pushes(tiny, hub, python, tmp_path):
    tiny().save_pretrained(tmp_path / "encoder")
    cases = (
        ("somebody/x", None, "expected a token of the hub to push to somebody/x, found none; run `hf auth login`"),
        (
            "somebody/x",
            "hf_another",
            "expected to push to somebody/x, the hub says: .*401.*; check the name, the token",
        ),
        ("else/x", TOKEN, "expected to push to else/x, the hub says: .*403.*rights to create a model under else"),
        ("a/b/c", TOKEN, "expected to push to a/b/c, the hub says: .*; check the name"),
        ("../x y", TOKEN, "expected to push to ../x y, the hub says: "),
    )
    code = f"""
import apmae
mae = apmae.APMAE.from_pretrained({str(tmp_path / "encoder")!r})
for repo_id, token in {[case[:2] for case in cases]}:
    try: mae.push_to_hub(repo_id, token=token)
    except apmae.ApmaeError as error: print(type(error).__name__, error)
"""
    result = python("-c", code, endpoint=hub.url, token=None)
    lines = result.stdout.splitlines()
    assert len(lines) == len(cases), result.stderr
    for line, (_, _, message) in zip(lines, cases, strict=True):
        assert re.match(f"ModelError {message}", line)
    assert not hub.repositories


@pytest.mark.slow
def test_an_unreachable_hub(tiny, python, tmp_path):
    tiny().save_pretrained(tmp_path / "encoder")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        result = python("-m", "apmae", "push", tmp_path / "encoder", "somebody/x", endpoint=endpoint)
    assert result.returncode == 2
    assert re.match("apmae: expected to push to somebody/x, the hub says: .*refused.*; check .* network", result.stderr)
    assert len(result.stderr.splitlines()) == 1


def test_a_repository_without_an_encoder(hub, python):
    hub.repositories["somebody/text"] = {"README.md": b"hello"}
    code = """
import apmae
for name in ("text", "nothing"):
    try: apmae.APMAE.from_pretrained(f"somebody/{name}")
    except apmae.ApmaeError as error: print(type(error).__name__, error)
"""
    text, nothing = python("-c", code, endpoint=hub.url).stdout.splitlines()
    assert text.startswith(
        "ModelError expected an AP-MAE at somebody/text, the repository has no config.json; check the id"
    )
    assert nothing.startswith(
        "ModelError expected an AP-MAE at somebody/nothing: no such folder, and the hub says: 404"
    )


def test_the_command_refuses_unfinished_folders(tiny, tmp_path):
    def refused(folder, kind, message):
        with pytest.raises(kind, match=message):
            push(folder, "somebody/x")

    refused(tmp_path / "none", ModelError, "expected the folder of an AP-MAE, found no folder .*none; check the path")
    refused(tmp_path, ModelError, "it has no config.json; was its training finished")
    tiny().save_pretrained(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"stage": "encode", "format": FORMAT}))
    refused(tmp_path, ArtifactError, f"expected stage 'train' of format {FORMAT} .*, found stage 'encode'")


@pytest.mark.parametrize("license", ["", "mit\nx: y", "MIT License", "-", "mit "])
def test_an_invalid_license_is_refused_before_the_hub_is_contacted(tiny, license):
    with pytest.raises(ConfigError, match="expected a license identifier such as apache-2.0 or mit, got "):
        tiny().push_to_hub("somebody/x", license=license)
