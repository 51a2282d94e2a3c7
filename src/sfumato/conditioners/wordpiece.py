"""Prompts -> BERT's token ids: words of lower case without accents, cut into the longest pieces of a vocabulary.

Devlin et al. 2018 (arXiv 1810.04805); WordPiece: Wu et al. 2016 (arXiv 1609.08144). The text models of Rombach et al. 2021
(arXiv 2112.10752) use the 30,522 pieces of `bert-base-uncased`; its file `vocab.txt` does not ship with this package.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from sfumato.errors import InputError

PAD, UNKNOWN, BEGIN, END, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
MARKS = (PAD, UNKNOWN, BEGIN, END, MASK)
REPOSITORIES = ("google-bert/bert-base-uncased", "bert-base-uncased")
FILE = "vocab.txt"
LARGEST = 16 * 2**20  # bytes; the published file has 232 kB


def bert_tokenizer(words: list[str]) -> Tokenizer:
    """BERT's uncased tokenizer over a vocabulary in the order of its ids, without marks or padding around a text.

    A mark inside a prompt is the mark, as in the published models.
    """
    missing = [mark for mark in MARKS if mark not in words]
    if missing:
        raise InputError(f"BERT's vocabulary lacks {', '.join(missing)}; expected {FILE} of bert-base-uncased.")
    tokenizer = Tokenizer(models.WordPiece({word: index for index, word in enumerate(words)}, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens([AddedToken(mark, normalized=False, special=True) for mark in MARKS])
    return tokenizer


def read_vocabulary(path: Path) -> list[str]:
    """The pieces of a `vocab.txt`, one a line, in the order of their ids. Raises `InputError` when the file is none."""
    try:
        if path.stat().st_size > LARGEST:
            raise InputError(f"{path} is larger than {LARGEST >> 20} MiB; expected {FILE} of bert-base-uncased.")
        text = path.read_text("utf-8")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; expected {FILE} of bert-base-uncased.") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text; expected {FILE} of bert-base-uncased.") from None
    return text.removesuffix("\n").split("\n")


def find_vocabulary(path: Path | None = None) -> Path:
    """`path`, or the file in the hub's cache on this machine; nothing is downloaded. Raises `InputError` when there is none."""
    if path is not None:
        return path / FILE if path.is_dir() else path
    from huggingface_hub import try_to_load_from_cache  # comes with `tokenizers`

    for repository in REPOSITORIES:
        found = try_to_load_from_cache(repository, FILE)
        if isinstance(found, str):
            return Path(found)
    raise InputError(
        f"this model needs {FILE} of bert-base-uncased, which is not in the hub's cache; get it once with "
        f"`hf download {REPOSITORIES[0]} {FILE}`, or give its path."
    )
