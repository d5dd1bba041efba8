"""Completions made to exhaust, mislead or attack a grader. The gold of all of them is 42."""

from __future__ import annotations

ANSWERS = {
    "power tower": "2^{2^{2^{2^{2^{2}}}}}",
    "taller tower": "9^{9^{9^{9^{9^{9^{9^{9}}}}}}}",
    "power of a power": "10^{10^{10}}",
    "Python powers": "9**9**9**9",
    "negative tower": "2^{-9^{9^{9}}}",
    "fractional tower": r"1.0000001^{10^{10^{10}}}",
    "named tower": "x^{x^{x^{x^{x^{x}}}}}",
    "modulo tower": r"9^{9^{9^{9}}} \bmod 43",
    "root of a tower": r"\sqrt[3]{7^{7^{7^{7}}}}",
    "logarithm of a tower": r"\log_{2} 2^{2^{2^{2^{2^{2}}}}}",
    "factorial": "1000000000!",
    "nested factorials": "((10!)!)!",
    "many factorials": "9!!!!!!!!",
    "quotient of factorials": r"\frac{(10^{9})!}{(10^{9}-1)!}",
    "binomial": r"\binom{1000000000}{500000000}",
    "binomial of powers": r"\binom{10^{30}}{10^{29}}",
    "Catalan": r"\frac{1}{10^{9}+1}\binom{2 \cdot 10^{9}}{10^{9}}",
    "sum": r"\sum_{k=1}^{1000000000} k^k",
    "nested sums": r"\sum_{a=1}^{99999}\sum_{b=1}^{99999}\sum_{c=1}^{99999} a^{b^{c}}",
    "sum of factorials": r"\sum_{k=1}^{100000000} k!",
    "infinite sum": r"\sum_{k=1}^{\infty} \frac{\sin(k^{k})}{k^{k} + \cos k}",
    "product": r"\prod_{k=1}^{100000000} (k^{2} + 1)",
    "infinite product": r"\prod_{k=1}^{\infty} \left(1 + \frac{\sin k}{k^{3}}\right)",
    "expansion": "(x+y+z+1)^{500}-(x+y+z)^{500}",
    "expansion of many names": "(a+b+c+d+f+g+h+j+k+l)^{60} - (a+b+c+d+f+g+h+j+k+l)^{59}",
    "integral": r"\int_0^{\infty} \frac{\sin(x^x)}{x^{x}}dx",
    "double integral": r"\int_0^1 \int_0^1 \frac{\exp(x^{y^{x}})}{1 + \sin(x y)} dx dy",
    "limit": r"\lim_{x \to \infty} \frac{x^{x^{x}}}{(x!)^{x!}}",
    "derivative": r"\frac{d}{dx} x^{x^{x^{x^{x^{x}}}}}",
    "equation of degree 500": "x^{500} + x^{499} - x^{251} + 7 = 3 x^{333} - x",
    "inequality": r"x^{99} - \sin(x^{98}) \le \cos(x^{97}) + x^{y}",
    "determinant": r"\begin{vmatrix}" + r" \\ ".join("a & b & c & d & f & g & h" for _ in range(7)) + r"\end{vmatrix}",
    "power of a matrix": r"\begin{pmatrix} 1 & 1 \\ 1 & 0 \end{pmatrix}^{10^{9}}",
    "large matrix": r"\begin{pmatrix}" + r"\\".join("&".join(["1"] * 12) for _ in range(12)) + r"\end{pmatrix}",
    "nested brackets": "(" * 3000 + "1" + ")" * 3000,
    "200 brackets": "(" * 200 + "1" + ")" * 200,
    "nested braces": "{" * 2000 + "1" + "}" * 2000,
    "nested fractions": r"\frac{1}{" * 2000 + "2" + "}" * 2000,
    "40 fractions": r"\frac{1}{1+" * 44 + "2" + "}" * 44,
    "nested roots": r"\sqrt{2+" * 1000 + "2" + "}" * 1000,
    "nested indices": "x_{" * 500 + "1" + "}" * 500,
    "nested sets": r"\{" * 400 + "1" + r"\}" * 400,
    "nested absolute values": "|" * 2001 + "1" + "|" * 2001,
    "nested functions": r"\sin(" * 60 + "1" + ")" * 60,
    "nested powers": "2^{" * 3000 + "1" + "}" * 3000,
    "minus signs": "-" * 3000 + "42",
    "primes": "f" + "'" * 20_000 + "(x)",
    "set of thousands": r"\{" + ",".join(map(str, range(20_000))) + r"\}",
    "set of a hundred roots": r"\{" + ",".join(rf"\sqrt{n}" for n in range(11, 90)) + r"\}",
    "union of hundreds": r" \cup ".join(f"({n},{n + 1})" for n in range(300)),
    "long sum": "+".join(["1"] * 20_000),
    "long product": "(x+1)" * 5000,
    "long equation": "=".join(["1"] * 5000),
    "100k digits": "7" * 100_000,
    "100k decimals": "0." + "7" * 100_000,
    "5000 digits": "7" * 5000,
    "huge exponent": "1e" + "9" * 400,
    "huge exponents subtracted": "1e999999999 - 1e999999998",
    "100k letters": r"\text{" + "a" * 100_000 + "}",
    "many texts": r"\text{a" * 20_000,
    "many arrays": r"\begin{array}{" * 10_000,
    "commas and digits": "1," * 40_000,
    "digits and points": "1." * 40_000,
    "percent signs": "42" + r"\%" * 50_000,
    "number words": "one hundred " * 10_000,
    "spaces": "4" + " " * 100_000 + "2",
}
"""What stands in the box; each takes more than any grader gives, or is too long or too deep to be judged."""

DECIDED = {
    "strict": {
        "named tower", "modulo tower", "expansion", "expansion of many names", "derivative", "equation of degree 500",
        "inequality", "determinant", "power of a matrix", "large matrix", "huge exponent", "huge exponents subtracted",
    },
    "paper": {
        "Python powers", "named tower", "nested sums", "expansion of many names", "limit", "derivative",
        "equation of degree 500", "determinant", "power of a matrix", "large matrix", "40 fractions", "huge exponent",
        "huge exponents subtracted",
    },
}  # fmt: skip
"""Of those, by grader, the ones whose verdict is found at once all the same: wrong."""

UNCLOSED = {"many texts", "many arrays"}
"""They close no box, so that there is no answer for the strict grader."""


def in_box(answer: str) -> str:
    return f"Therefore the answer is $\\boxed{{{answer}}}$."


HARMLESS = {
    "thousands of boxes": r"\boxed{1}" * 5000,
    "thousands of unclosed boxes": r"\boxed{" * 20_000,
    "braces": "{" * 50_000,
    "dollars": "$" * 50_000,
    "dollars and text": "$x" * 30_000,
    "opened parentheses": r"\(" * 30_000,
    "opened brackets": r"\[ x" * 30_000,
    "answers": "the answer is " * 10_000,
    "marks": "#### " * 20_000 + "\n",
    "backslashes": "\\" * 100_000,
    "line feeds": "\n" * 100_000,
    "not UTF-8": "\x00\ud800\\boxed{\udfff}",
    "right to left": "\u202e24\u202c \\boxed{\u202e24}",
    "numbers": "7 " * 30_000,
    "nothing": "",
}
"""What looks dangerous and has a verdict nevertheless: wrong."""

CODE = (
    r"\boxed{open('PATH','w')}",
    r"The answer is open('PATH','w')",
    r"\boxed{__import__('os').system('touch PATH')}",
    r"\boxed{\text{__import__('os').system('touch PATH')}}",
    r"\boxed{().__class__.__base__.__subclasses__()}",
    r"\boxed{[x for x in [open('PATH','w')]]}",
    r"\boxed{(lambda: open('PATH','w'))()}",
    r"\boxed{eval('open(\"PATH\",\"w\")')}",
    r"\boxed{exec(compile('open(\"PATH\",\"w\")','','exec'))}",
    r"\boxed{Symbol('x').func.__globals__}",
    r"\boxed{f\"{open('PATH','w')}\"}",
    r"\boxed{sympify(\"open('PATH','w')\")}",
    r"\boxed{x + open('PATH','w') + \frac{1}{2}}",
    r"\boxed{1 if open('PATH','w') else 2}",
    r"\boxed{[open('PATH','w'), 42]}",
    "$\\input{PATH}\\immediate\\write18{touch PATH}$",
    "```python\nopen('PATH', 'w')\n```",
    "The final answer is $open('PATH','w')$. I hope it is correct.",
)
