"""Texts that are hard for tokenizers, for property tests, and file names that look like patterns or flags."""

from hypothesis import strategies as st

SPACES = " \t\n\r\v\f\x1c\x1f\x85\xa0\u1680\u2000\u2003\u2009\u200b\u2028\u2029\u202f\u205f\u3000\ufeff"
NAMES = ["run [v2]", "[v", "v]", "a*b?", "{x} ~#%=,;&", "'\"", "back\\slash", "漢字 café", "-x"]  # of folders and files
PIECES = st.one_of(
    st.text(max_size=12),  # any code point but surrogates: controls, combining marks, astral planes
    st.text(SPACES, max_size=6),
    st.text("abzÀßœ\u0301\u0308\u20dd'’sdtlmrev", max_size=10),
    st.text("019²½٣௧\U0001d7ce", max_size=6),
    st.text("\U0001f600\u200d\U0001f469\ufe0f\U00010348\U000e0001", max_size=4),
    st.sampled_from(["<|endoftext|>", "'s", "'ll", "I'VE", " \n ", "\r\n", "@-@", "\x00", "</s>"]),
    st.builds(
        lambda text, count: text * count, st.sampled_from(["a", " ", "\n", "é", "9", "ab", "-"]), st.integers(1, 3000)
    ),
)
TEXTS = st.lists(PIECES, max_size=12).map("".join)
