r"""Formulas as MathML, which browsers set themselves, from a small part of TeX's notation.

    x_t, x^2, x_{i-1}^2      below and above          \frac{a}{b}, \sqrt{a}, \hat{x}
    \alpha, \log, \sum ...   by the tables here       \text{words}, \; (a wide space)

Letters stand for themselves, so do operators in Unicode.
"""

from __future__ import annotations

import re
from html import escape

TOKEN = re.compile(r"\\text\{([^}]*)\}|\\([A-Za-z]+|;)|([A-Za-z]+'?|\d+(?:\.\d+)?)|([_^{}])|(\S)")
SYMBOLS = {
    "alpha": "α", "beta": "β", "sigma": "σ", "eps": "ε", "pi": "π", "theta": "θ", "xi": "ξ", "E": "𝔼", "N": "𝒩", "L": "ℒ",
}  # fmt: skip
OPERATORS = {
    "sum": "∑", "prod": "∏", "int": "∫", "le": "≤", "ge": "≥", "partial": "∂", "nabla": "∇", "cdot": "·", "norm": "‖",
    "mid": "|", "sim": "∼", "plus": "+",
}  # fmt: skip
FUNCTIONS = ("log", "exp", "min", "max", "argmin", "softmax", "softplus", "det", "KL", "div", "floor", "sg", "SNR")
ABOVE_AND_BELOW = ("∑", "∏", "𝔼")


class _Reader:
    def __init__(self, text: str):
        self.tokens = list(TOKEN.finditer(text))
        self.at = 0

    def row(self, closing: bool = False) -> str:
        """Up to the end, or to the brace that closes."""
        parts: list[str] = []
        while self.at < len(self.tokens):
            if self.tokens[self.at][4] == "}":
                if closing:
                    self.at += 1
                    return "".join(parts)
                raise ValueError("a formula closes a brace that was not opened")
            parts.append(self.scripted())
        if closing:
            raise ValueError("a formula leaves a brace open")
        return "".join(parts)

    def scripted(self) -> str:
        """An atom with what stands below and above it."""
        base, scripts = self.atom(), {}
        while self.at < len(self.tokens) and self.tokens[self.at][4] in ("_", "^"):
            mark = self.tokens[self.at][4]
            self.at += 1
            scripts[mark] = self.atom()
        if not scripts:
            return base
        limits = any(f">{symbol}<" in base for symbol in ABOVE_AND_BELOW[:2])
        name = {"_": "munder" if limits else "msub", "^": "mover" if limits else "msup"}
        if len(scripts) == 2:
            tag = "munderover" if limits else "msubsup"
            return f"<{tag}>{base}{scripts['_']}{scripts['^']}</{tag}>"
        ((mark, script),) = scripts.items()
        return f"<{name[mark]}>{base}{script}</{name[mark]}>"

    def atom(self) -> str:
        """One thing, as one element."""
        words, command, plain, brace, operator = self.tokens[self.at].groups()
        self.at += 1
        if words is not None:
            return f"<mtext>{escape(words)}</mtext>"
        if command is not None:
            return self.command(command)
        if plain is not None:
            return f"<mn>{plain}</mn>" if plain[0].isdigit() else _letters(plain)
        if brace == "{":
            return f"<mrow>{self.row(closing=True)}</mrow>"
        if brace is not None:
            raise ValueError(f"a formula has {brace!r} where something was to come")
        return _operator("−" if operator == "-" else operator)

    def command(self, name: str) -> str:
        """What stands behind a backslash."""
        if name == ";":
            return '<mspace width="1.2em"/>'
        if name == "frac":
            return f"<mfrac>{self.atom()}{self.atom()}</mfrac>"
        if name == "sqrt":
            return f"<msqrt>{self.atom()}</msqrt>"
        if name in ("hat", "bar"):
            return f'<mover accent="true">{self.atom()}<mo stretchy="false">{"^" if name == "hat" else "¯"}</mo></mover>'
        if name in SYMBOLS:
            return f"<mi>{SYMBOLS[name]}</mi>"
        if name in OPERATORS:
            return _operator(OPERATORS[name])
        if name in FUNCTIONS:
            return f"<mi>{name}</mi>" + ("" if self._opens() else '<mspace width="0.17em"/>')
        raise ValueError(f"a formula has \\{name}, which is in none of the tables")

    def _opens(self) -> bool:
        return self.at < len(self.tokens) and self.tokens[self.at][0] in "(_^["


def mathml(text: str, block: bool = True) -> str:
    """A `<math>` element. Raises `ValueError` for what it cannot read."""
    display = ' display="block"' if block else ""
    return f"<math{display}><mrow>{_Reader(text).row()}</mrow></math>"


def _letters(text: str) -> str:
    """Letters side by side are variables side by side."""
    prime = text.endswith("'")
    each = [f"<mi>{letter}</mi>" for letter in text.rstrip("'")]
    if prime:
        each[-1] = f"<msup>{each[-1]}<mo>′</mo></msup>"
    return each[0] if len(each) == 1 else f"<mrow>{''.join(each)}</mrow>"


def _operator(symbol: str) -> str:
    still = ' stretchy="false"' if symbol in "()[]{}|‖" else ""
    return f"<mo{still}>{escape(symbol)}</mo>"
