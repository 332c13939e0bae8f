"""Small random encoders with tokenizers of their families, saved as folders that load like published models."""

from functools import cache

import pytest

TEXT = """\
The old harbour was quiet in the morning. Boats rested on the water, and the gulls walked along the wall.
"Nobody sails before noon," said Anna Berg, who had counted 14 boats and 3 nets. She wrote the numbers down.
In the afternoon the wind turned. The boats left the harbour one after another, and the gulls followed the boats.
Peter Holm asked for the numbers: 14 boats in the morning, 2 in the evening. "The rest is at sea," said Anna.
Every evening the keeper lit the lamp of the tower. It had burned for 120 years, and nobody had seen it go out.
The harbour of the neighbouring town was larger, but its lamp was weaker. Sailors preferred the old harbour.
"""
WORDPIECE = ("bert", "distilbert", "sentence")
KINDS = ("bert", "distilbert", "roberta", "modernbert", "sentence")
"""The last is a BERT without a head for masked tokens, as sentence encoders are."""


def make_tokenizer(kind):
    """A tokenizer of the family, trained on the text."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    if kind in WORDPIECE:
        names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
        made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made.normalizer = normalizers.BertNormalizer()
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        made.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(
            vocab_size=220, special_tokens=list(names.values()), show_progress=False, limit_alphabet=60
        )
    else:
        names = {"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"}
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=420,
            special_tokens=list(names.values()),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    made.train_from_iterator(TEXT.splitlines(), trainer)
    around = [(names[name], made.token_to_id(names[name])) for name in ("cls", "sep")]
    made.post_processor = processors.TemplateProcessing(f"{names['cls']} $A {names['sep']}", None, around)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, **{f"{name}_token": text for name, text in names.items()}, model_max_length=512
    )


def make_encoder(folder, kind, *, favourite=None):
    """Save a small random encoder and its tokenizer.

    Args:
        folder: where.
        kind: one of ``KINDS``.
        favourite: text of a token that it puts in place of every mask; by default its answers are random.
    """
    import torch
    import transformers as hf

    tokenizer = make_tokenizer(kind)
    tokenizer.save_pretrained(folder)
    common = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    sizes = {
        **common,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 32,
        "max_position_embeddings": 256,
    }
    configs = {
        "bert": lambda: hf.BertForMaskedLM(hf.BertConfig(**sizes)),
        "sentence": lambda: hf.BertModel(hf.BertConfig(**sizes)),
        "roberta": lambda: hf.RobertaForMaskedLM(hf.RobertaConfig(**sizes)),
        "modernbert": lambda: hf.ModernBertForMaskedLM(
            hf.ModernBertConfig(
                **sizes,
                cls_token_id=tokenizer.cls_token_id,
                sep_token_id=tokenizer.sep_token_id,
                bos_token_id=tokenizer.cls_token_id,
                eos_token_id=tokenizer.sep_token_id,
            )
        ),
        "distilbert": lambda: hf.DistilBertForMaskedLM(
            hf.DistilBertConfig(**common, dim=32, hidden_dim=32, n_layers=2, n_heads=4, max_position_embeddings=256)
        ),
    }
    torch.manual_seed(0)
    model = configs[kind]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5)  # so that heads and answers differ
        if favourite is not None:
            (token,) = tokenizer.encode(favourite, add_special_tokens=False)
            model.get_output_embeddings().bias[token] = 1000
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory):
    """Finds the folder of a small encoder, made once; ``favourite`` as for :func:`make_encoder`."""

    @cache
    def find(kind, favourite=None):
        return make_encoder(tmp_path_factory.mktemp(f"encoder-{kind}"), kind, favourite=favourite)

    return find


@pytest.fixture(scope="session")
def encoder_lm(encoder_folder):
    """Loads a small encoder, checked against eager on the way; tests must not change it."""

    @cache
    def load(kind, favourite=None):
        from apmae.lm.load import load_lm

        return load_lm(encoder_folder(kind, favourite))

    return load


@pytest.fixture(scope="session")
def harbour(tmp_path_factory):
    """A folder of four text files."""
    folder = tmp_path_factory.mktemp("harbour")
    lines = TEXT.splitlines()
    for number in range(4):
        turned = lines[number:] + lines[:number]
        (folder / f"day{number}.txt").write_text("\n".join([f"Day {number + 1} at the harbour.", *turned, ""]))
    return folder
