"""Model cards: what they say is what the manifest says, and a stranger's manifest stays text."""

import json
import shutil

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from apmae.artifacts import read_json
from apmae.errors import ConfigError
from apmae.model.card import cell
from apmae.model.mae import APMAE

PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def head_of(card):
    _, head, body = card.split("---\n", 2)
    return yaml.safe_load(head), body


def rows_of(markdown):
    """Cells of all tables as (first, second): their text, after a Markdown parser read them."""
    tokens = PARSER.parse(markdown)
    cells = [token for before, token in zip(tokens, tokens[1:], strict=False) if before.type == "td_open"]
    texts = ["".join(child.content for child in token.children) for token in cells]
    return dict(zip(texts[::2], texts[1::2], strict=True))


@pytest.fixture(scope="module")
def trained(real_study):
    return real_study.folder / "encoder"


def test_the_card_of_a_training_says_what_its_manifest_says(trained, real_study):
    mae = APMAE.from_pretrained(trained)
    head, body = head_of(mae.model_card("somebody/encoder"))
    assert head == {
        "library_name": "apmae",
        "tags": ["apmae", "attention", "interpretability", "masked-autoencoder"],
    }
    rows, manifest = rows_of(body), read_json(trained / "manifest.json")
    for name, value in manifest["counts"].items():
        assert rows["language model" if name == "lm" else name] == str(value)
    for name, value in manifest["inputs"].items():
        assert rows[f"SHA-256 of {'language model' if name == 'lm' else name}"] == value
    for name, value in manifest["versions"].items():
        assert rows[f"version of {name}"] == value
    settings = {name: value for name, value in manifest["config"].items() if name not in ("model", "steps", "capture")}
    settings |= manifest["config"]["capture"]
    assert {"batch_size", "base_lr", "heads", "seed", "dtype", "infill"} <= set(settings)
    for name, value in settings.items():
        if value is not None:
            assert rows[name] == (value if isinstance(value, str) else json.dumps(value))
    last = json.loads((trained / "metrics.jsonl").read_text().splitlines()[-1])
    assert float(rows["last loss"]) == last["loss"]
    assert float(rows["last published_loss"]) == last["published_loss"]
    assert rows["encoder"].startswith(f"{mae.config.encoder_layers} layers x {mae.config.encoder_dim}, ")
    assert rows["pattern"] == "256 x 256 tokens in patches of 32 x 32"
    assert rows["hidden in training"] == "18 of 36 patches"
    assert rows["parameters"] == str(mae.num_parameters)
    assert 'from_pretrained("somebody/encoder")' in body
    assert str(real_study.folder) not in body  # nothing of this machine


def test_a_saved_copy_keeps_the_card(trained, tmp_path):
    mae = APMAE.from_pretrained(trained)
    mae.save_pretrained(tmp_path / "copy")
    copy = APMAE.from_pretrained(tmp_path / "copy")
    assert (tmp_path / "copy" / "README.md").read_text() == mae.model_card() == copy.model_card("other/name")
    assert "last loss" in rows_of(copy.model_card())
    (tmp_path / "copy" / "README.md").write_text("# Mine\n\ngrüße\n")
    assert APMAE.from_pretrained(tmp_path / "copy").model_card() == "# Mine\n\ngrüße\n"
    with pytest.raises(
        ConfigError, match="expected no license for a model that has a card, got 'mit'; write it in its README"
    ):
        copy.model_card(license="mit")


def test_a_model_made_here_has_a_card_without_training(tiny, tmp_path):
    model = tiny()
    head, body = head_of(model.model_card(license="apache-2.0"))
    assert head["license"] == "apache-2.0"
    assert "## Training" not in body
    assert 'from_pretrained("folder-or-hub-id")' in body
    encoder = sum(
        tensor.numel()
        for name, tensor in model.state_dict().items()
        if name.split(".")[0] in ("embed", "cls", "positions", "encoder")
    )
    assert rows_of(body)["encoder"] == f"2 layers x 12, 2 heads, MLP 16, {encoder / 1e6:.1f} M parameters"
    model.save_pretrained(tmp_path)
    assert not (tmp_path / "README.md").exists()  # it says nothing that config.json does not
    assert APMAE.from_pretrained(tmp_path).origin is None


def test_the_published_layout_has_no_card_of_ours(shared_folder, tmp_path):
    for file in shared_folder("reference_checkpoint").iterdir():
        shutil.copyfile(file, tmp_path / file.name)
    (tmp_path / "README.md").write_text("---\nlibrary_name: elsewhere\n---\n")
    card = APMAE.from_pretrained(tmp_path).model_card()
    assert "Imported from a checkpoint in the layout that the paper's authors published" in card
    assert "elsewhere" not in card


@pytest.mark.parametrize(
    "manifest", [b"", b"{", b"[]", b'{"stage": "encode"}', b'{"stage": "train", "counts": [], "config": 3}', b"\xff"]
)
def test_a_model_with_a_damaged_manifest_can_be_used(tiny, tmp_path, manifest):
    tiny().save_pretrained(tmp_path)
    (tmp_path / "manifest.json").write_bytes(manifest)
    (tmp_path / "metrics.jsonl").write_bytes(b'{"loss": 1}\n[]\n{"lo')
    mae = APMAE.from_pretrained(tmp_path)
    assert mae.fingerprint == tiny().fingerprint
    assert "## Model" in mae.model_card()


# -- a stranger's manifest ---------------------------------------------------------------------------------------------

HOSTILE = [
    "![x](https://example.org/x.png)",
    "[x](javascript:alert(1))",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "a | b | c",
    "a\n\n# Heading\n\n---\nlicense: mit\n---",
    "`code` **bold** _em_ __init__ ~~gone~~ $x$ snake_case",
    "<https://example.org> https://example.org www.example.org a@example.org",
    "\\| \\",
    "&lt;b&gt; &#124;",
    "\u202etxt.exe\u0000\u2028x",
    "{size} {0} %s",
]


@given(value=st.text(max_size=60))
@example("")
def test_a_cell_is_text(value):
    assert_text(value)


@pytest.mark.parametrize("value", HOSTILE)
def test_a_hostile_cell_is_text(value):
    assert_text(value)
    assert not {"<", ">", "[", "`", "*", "|", "\n", "\\", ":"} & set(cell(value))


def assert_text(value):
    table = f"| | |\n|---|---|\n| name | {cell(value)} |\n| next | row |\n"
    tokens = PARSER.parse(table)
    assert [token.type for token in tokens].count("tr_open") == 3
    inline = [token for token in tokens if token.type == "inline"]
    assert len(inline) == 6
    assert {child.type for token in inline for child in token.children} <= {"text", "text_special"}
    shown = " ".join("".join(c if c.isprintable() else " " for c in value).split())
    assert "".join(child.content for child in inline[3].children).strip() == shown.strip()
    assert [token.content for token in inline[4:]] == ["next", "row"]


@pytest.mark.parametrize("value", HOSTILE)
def test_a_hostile_manifest_stays_in_its_table(tiny, tmp_path, value):
    tiny().save_pretrained(tmp_path)
    plain = PARSER.parse(tiny().model_card())
    record = {
        "stage": "train",
        "counts": {"lm": value, value: 1},
        "config": {"infill": value, "list": [value]},
        "inputs": {"lm": value},
        "versions": {value: value},
    }
    (tmp_path / "manifest.json").write_text(json.dumps(record))
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"loss": value, value: 1}))
    card = APMAE.from_pretrained(tmp_path).model_card()
    head, body = head_of(card)
    assert head == head_of(tiny().model_card())[0]
    allowed = {token.type for token in plain}
    assert {token.type for token in PARSER.parse(card)} == allowed
    headings = [
        token.content
        for before, token in zip(*[PARSER.parse(body)[i:] for i in (0, 1)], strict=False)
        if before.type == "heading_open"
    ]
    assert headings == ["AP-MAE", "How to load it", "Model", "Training", "Limits"]
    assert len(rows_of(body)) >= 7 + 6


@pytest.mark.parametrize("repo_id", ['x") import os', "a/b\n# c", "a b", "", "a/b/c", "<b>"])
def test_an_id_that_is_none_is_not_put_into_code(tiny, repo_id):
    assert tiny().model_card(repo_id) == tiny().model_card()


def test_a_long_value_is_cut():
    assert cell("x" * 1000) == "x" * 197 + "..."
