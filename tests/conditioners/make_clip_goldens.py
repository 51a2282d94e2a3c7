"""Writes tests/data/clip_tokens_goldens.json: what OpenAI's own tokenizer makes of prompts of every kind. A tool, not a test.

    python tests/conditioners/make_clip_goldens.py FILE

FILE is `clip/simple_tokenizer.py` of OpenAI's CLIP (the PyPI package clip-anytorch 2.6.0 has it, with the merges beside it);
it needs the packages ftfy and regex. The prompts are made here and stand in the result, each with its ids, without marks.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
from importlib.metadata import version
from pathlib import Path

TARGET = Path(__file__).resolve().parent.parent / "data" / "clip_tokens_goldens.json"
WORDS = """
a photo of the cat Greg Rutkowski 8K HDR ArtStation R2-D2 C-3PO 3.14 1234 #tag @me (cat:1.2) [dog] {a|b} <b> </b> !!! ...
DON'T WE'RE we'll they've I'm he'd 'tis O'Neill's '''s "x" dragon’s “fire” ‘single’ ‹a› «b» l’été don‚t „low“ don´t don`t
naïve café schÃ¶n â€™s donâ€™t Ã© Â£5 ä½å¥½ Ð¿Ñ€Ð¸Ð²ÐµÑ‚ cafÃ© itâ€™s â€œhiâ€� 5 â‚¬ Ã¼ber
&amp; &lt;lora:x:1&gt; &eacute; &#233; &#x1F600; &amp;lt; &amp;amp;amp; &nbsp; &copy &notanentity;
&quot;q&quot; &#39;s &#0; AT&T a&b
ﬁne ﬀ ﬄ ǆ Ｆｕｌｌ １２３ ＣＤ！ ａｂｃ ﾊﾝｶｸ … — – ‐ − ½ Ⅷ ٣ ² ™ © №7 €5 ° ℃ K Ω Å 𝒜𝓇𝓉 𝟙𝟚 ⓐ ㎏
ΟΔΟΣ Σ ΣΑΣ İstanbul ıI STRASSE straße ẞ ſt Ǆ Ǆa ÅNGSTRÖM Ångström e\u0301 A\u030a n\u0303 \u0301 \u0958 각 \u1100\u1161
日本語 汉字，标点。 한국어 русский العربية עברית हिन्दी ไทย தமிழ் ქართული Հայերեն አማርኛ 😀 😀😀 👨‍👩‍👧 🏳️‍🌈 ❤️ 🇩🇪 👍🏽 ☃ ♥︎
""".split()  # noqa: SIM905
ODD = ["\u00a0", "\u3000", "\u200b", "\u202e", "\u2028", "\ufeff", "\ufffd", "\t", "\n", "\r\n", "\x0b", "\x0c", "\x85"]
ODD += ["\x1b[31m", "\x1b[0m", "\x07", "\x1c", "\x7f", "\x9d", "\x80", "\ue000", "\ud83d\ude00", "\ud800", "\udfff"]


def prompts() -> list[str]:
    """Every piece alone and between letters, and pieces at random, with and without spaces between them."""
    rng = random.Random(0)
    pieces = [*WORDS, *ODD]
    made = [*pieces, *(f"a{piece}b" for piece in pieces)]
    for _ in range(400):
        made.append(rng.choice([" ", " ", "", ", ", "\n"]).join(rng.choices(pieces, k=rng.randint(2, 9))))
    return [*made, "", " ", "word " * 100, "é" * 200, "’" * 300, "&amp;" * 100, "ﬀ" * 100, "'S", "IT'S", "It’S", "IT’LL"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    spec = importlib.util.spec_from_file_location("simple_tokenizer", parser.parse_args().file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tokenizer = module.SimpleTokenizer()
    found = [[prompt, tokenizer.encode(prompt)] for prompt in prompts()]
    made_by = (
        "tests/conditioners/make_clip_goldens.py, by clip/simple_tokenizer.py of clip-anytorch 2.6.0 (OpenAI), "
        f"ftfy {version('ftfy')}, regex {version('regex')}"
    )
    TARGET.write_text(json.dumps({"made_by": made_by, "prompts": found}, separators=(",", ":")) + "\n", "utf-8")


if __name__ == "__main__":
    main()
