"""Personal data that has a form: mail addresses, phone numbers, bank cards, IBANs, Chinese identity numbers, IP addresses.

Needs nothing but Python, so that whatever reads texts can use it: `check`, `clean`, logs. A pattern finds what may be one, and where a
number carries its own check it is worked out: a card that fails Luhn's sum or an IBAN that fails modulo 97 is some other number.
Names, addresses and dates of birth have no form, so nothing here finds them. Phone numbers have no check digit: some order
numbers look like one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date

from trunkline.errors import unknown


@dataclass(frozen=True, slots=True)
class Personal:
    """One place in a text: `text[start:end]` is of this kind."""

    kind: str
    start: int
    end: int


def find(text: str, kinds: Iterable[str] | None = None) -> list[Personal]:
    """What of these kinds stands in the text (all of KINDS where none are named), in order, none over another.

    Full-width digits and letters are read as the plain ones.
    Raises: OptionError for an unknown kind.

    >>> [(one.kind, "write to li@example.com or 13812345678"[one.start : one.end]) for one in find("write to li@example.com or 13812345678")]
    [('mail', 'li@example.com'), ('phone', '13812345678')]
    """
    wanted = tuple(KINDS) if kinds is None else tuple(kinds)
    for kind in wanted:
        if kind not in KINDS:
            raise unknown("kind", kind, KINDS)
    if not _WORTH_A_LOOK.search(text):  # the usual case, in one pass
        return []
    plain = text if text.isascii() else text.translate(_PLAIN)
    found: list[Personal] = []
    for kind in (kind for kind in KINDS if kind in wanted):
        for pattern, is_one in KINDS[kind]:
            for match in pattern.finditer(plain):
                if is_one(match[0]) and not any(match.start() < one.end and one.start < match.end() for one in found):
                    found.append(Personal(kind, *match.span()))
    return sorted(found, key=lambda one: one.start)


def mask(text: str, kinds: Iterable[str] | None = None) -> str:
    """The text with the name of its kind in place of each: nothing else changes.

    >>> mask("card 4111 1111 1111 1111, order 4111 1111 1111 1112")
    'card [card], order 4111 1111 1111 1112'
    """
    for one in reversed(find(text, kinds)):
        text = f"{text[: one.start]}[{one.kind}]{text[one.end :]}"
    return text


def passes_luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of those before it. Source: ISO/IEC 7812-1, annex B (Luhn 1960).

    >>> passes_luhn("4111111111111111"), passes_luhn("4111111111111112")
    (True, False)
    """
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def is_card(text: str) -> bool:
    """A bank card: a number range and length that is issued, and Luhn's sum. Maestro's ranges are left out: they hold too many other numbers."""
    digits = re.sub(r"[ -]", "", text)
    return any(re.match(prefix, digits) and len(digits) in lengths for prefix, lengths in _CARDS) and passes_luhn(digits)


def is_iban(text: str) -> bool:
    """An international bank account number: a country that has them, its length, and 1 modulo 97. Source: ISO 13616; ISO/IEC 7064.

    >>> is_iban("GB82 WEST 1234 5698 7654 32"), is_iban("GB82 WEST 1234 5698 7654 33")
    (True, False)
    """
    code = text.replace(" ", "")
    if _IBAN_LENGTHS.get(code[:2]) != len(code):
        return False
    return int("".join(str(int(char, 36)) for char in code[4:] + code[:4])) % 97 == 1


def is_chinese_id(text: str) -> bool:
    """A resident identity number of 18 characters: a province, a day that there was, a check character. Source: GB 11643-1999.

    The old form of 15 digits has no check and is not taken.

    >>> is_chinese_id("11010519491231002X"), is_chinese_id("110105194912310021")
    (True, False)
    """
    if text[:2] not in _PROVINCES:
        return False
    try:
        born = date(int(text[6:10]), int(text[10:12]), int(text[12:14]))
    except ValueError:
        return False
    total = sum(int(digit) * weight for digit, weight in zip(text[:17], _ID_WEIGHTS))
    return born.year >= 1900 and _ID_CHECKS[total % 11] == text[17].upper()


def _is_phone(text: str) -> bool:
    """7 to 15 digits (Source: ITU-T E.164) that are not all the same."""
    digits = re.sub(r"\D", "", text)
    return 7 <= len(digits) <= 15 and len(set(digits)) > 1


def _is_address(text: str) -> bool:
    """An IPv4 address that can be somebody's: not this machine's own and no mask."""
    parts = [int(part) for part in text.split(".")]
    return max(parts) <= 255 and parts[0] not in (0, 127, 255)


def _always(text: str) -> bool:
    return True


_WORTH_A_LOOK = re.compile("[0-9０-９]{2}|[@＠]")
_PLAIN = {ord("Ａ") + n: ord("A") + n for n in range(26)} | {ord("ａ") + n: ord("a") + n for n in range(26)}
_PLAIN |= {ord("０") + n: ord("0") + n for n in range(10)} | {ord(wide): ord(plain) for wide, plain in zip("＠．－＋　（）", "@.-+ ()")}

_CARDS: tuple[tuple[str, tuple[int, ...]], ...] = (
    (r"4", (13, 16, 19)),  # Visa
    (r"5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720", (16,)),  # Mastercard
    (r"3[47]", (15,)),  # American Express
    (r"62", (16, 17, 18, 19)),  # UnionPay
    (r"6011|64[4-9]|65", (16, 19)),  # Discover
    (r"35(2[89]|[3-8])", (16, 19)),  # JCB
    (r"30[0-5]|3[689]", (14,)),  # Diners Club
)
_IBAN_LENGTHS = {
    code: length
    for length, codes in {
        15: "NO", 16: "BE", 18: "DK FI FO GL NL SD FK", 19: "MK SI", 20: "AT BA EE KZ LT LU XK MN", 21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL", 24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "LY PT ST",
        26: "IS TR", 27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HU LB NI PL SV", 29: "BR EG PS QA UA", 30: "JO KW MU YE",
        31: "MT SC", 32: "LC", 33: "RU",
    }.items()
    for code in codes.split()
}  # fmt: skip
_PROVINCES = {
    str(code)
    for codes in (range(11, 16), range(21, 24), range(31, 38), range(41, 47), range(50, 55), range(61, 66), range(81, 84))
    for code in codes
} | {"71"}
_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_ID_CHECKS = "10X98765432"

KINDS: dict[str, tuple[tuple[re.Pattern[str], Callable[[str], bool]], ...]] = {
    # every repetition is bounded and starts where no like character stands before it, so that any text is read in linear time
    "mail": (
        (re.compile(r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9_%+][A-Za-z0-9._%+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,5}[A-Za-z]{2,24}"), _always),
    ),
    "iban": ((re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])"), is_iban),),
    "chinese_id": ((re.compile(r"(?<![0-9A-Za-z])[1-8][0-9]{5}(?:19|20)[0-9]{9}[0-9Xx](?![0-9A-Za-z])"), is_chinese_id),),
    "card": ((re.compile(r"(?<![0-9A-Za-z.,-])[2-6][0-9]{2,3}(?:[ -]?[0-9]{2,6}){2,5}(?![0-9A-Za-z])"), is_card),),
    "phone": (
        (re.compile(r"(?<![0-9A-Za-z.+-])(?:\+?86[ -]?)?1[3-9][0-9](?:[ -]?[0-9]{4}){2}(?![0-9A-Za-z])"), _is_phone),  # China, mobile
        (
            re.compile(r"(?<![0-9A-Za-z.+-])(?:\+86[ -]?|\(?0)[1-9][0-9]{1,2}\)?[ -][2-9][0-9]{6,7}(?![0-9A-Za-z])"),
            _is_phone,
        ),  # China, at a place
        (
            re.compile(r"(?<![0-9A-Za-z.+])\+[1-9][0-9]{0,2}(?:[ .-]?\(?[0-9]{1,5}\)?){2,6}(?![0-9A-Za-z])"),
            _is_phone,
        ),  # anywhere, with its country
        (
            re.compile(
                r"(?<![0-9A-Za-z.+-])(?:1[ .-])?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[ .-])[2-9][0-9]{2}[ .-][0-9]{4}(?![0-9A-Za-z.-])"
            ),
            _is_phone,  # North America
        ),
    ),
    "ip": ((re.compile(r"(?<![0-9A-Za-z.-])(?:(?:0|[1-9][0-9]{0,2})\.){3}(?:0|[1-9][0-9]{0,2})(?![0-9A-Za-z-]|\.[0-9])"), _is_address),),
}
"""Each kind with what may be one, and what decides. The order settles who takes a number that could be two things."""
