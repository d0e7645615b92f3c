#!/usr/bin/env python3
"""make_tokenizer - what Hugging Face `tokenizers` gives for the texts of test_tokenizer.c, as tokenizer.bin.

By hand, in a throwaway venv, with the GGUF of SmolLM2-135M-Instruct (the default model):
    pip install tokenizers==0.23.3 && python tests/golden/make_tokenizer.py MODEL.gguf tests/golden/tokenizer.bin
The reference tokenizer is built from the model file's own vocabulary and merges, with the pre-tokenizers of SmolLM2
(Digits + ByteLevel) and of GPT-2 (ByteLevel). Texts are made the same way here and in the test: fragments from this
file, put together by SplitMix64; so tokenizer.bin holds the fragments and a 32-bit hash of the ids of each text. All
numbers are little-endian u32:
    magic "HTK1", counts (fragments, texts, runs, code point blocks, vocabulary blocks, decodes, rule sets)
    fragments   length, bytes (not padded), each
    texts       per text: ids as smollm without special tokens, smollm with, gpt2 without
    runs        the first fragments, one character each, x 3000: smollm, gpt2
    code points per 256 of them, surrogates left out: a<cp>b and 1<cp>! as smollm, as gpt2. All 1,112,064 are there,
                assigned or not (release 0.23.3 follows Unicode 16, its Digits 17)
    vocabulary  per 64 tokens: ids of the text of each that is valid UTF-8, as smollm
    decodes     per random list of ids: the text with special tokens, without
    rule sets   random merges over a..d, such as no training makes: all ids of 40 texts of each
"""
import random
import struct
import sys
import unicodedata

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

N_TEXTS, N_DECODES, N_RULE_SETS, RULE_TEXTS, RUN = 12000, 2000, 100, 40, 3000
U64 = (1 << 64) - 1

SENTENCES = """
The quick brown fox jumps over the lazy dog.
It's what they've said, isn't it? I'd say we'll see; he's sure I'm right.
DON'T SHOUT, IT'S LOUD
can''t 'twas o'clock rock'n'roll 'S 'LL s' 'd've
Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.
Portez ce vieux whisky au juge blond qui fume.
L'été où j'étais à l'école, c'était «génial» !
El pingüino Wenceslao hizo kilómetros bajo exhaustiva lluvia.
¿Qué pasó ayer? ¡Nada!
À noite, vovô Kowalsky vê o ímã cair no pé do pinguim.
Quel fez sghembo copre davanti, perché è così.
Pchnąć w tę łódź jeża lub ośm skrzyń fig.
Příliš žluťoučký kůň úpěl ďábelské ódy.
Árvíztűrő tükörfúrógép.
Înainte de a pleca, și țara știe.
Flygande bäckasiner söka hwila på mjuka tuvor.
Høj bly gom vandt fræk sexquiz på wc.
Törkylempijävongahdus.
Kæmi ný öxi hér ykist þjófum nú bæði víl og ádrepa.
Pijamalı hasta yağız şoföre çabucak güvendi. İIıi
Glāžšķūņa rūķīši dzērumā čiepj Baha koncertflīģeļu vākus.
Įlinkdama fechtuotojo špaga sublykčiojusi pragręžė apvalų arbūzą.
Съешь же ещё этих мягких французских булок, да выпей чаю.
Жебракують філософи при ґанку церкви в Гадячі, ще й шатро їхнє п'яне знаємо.
Ах чудна българска земьо, полюшвай цъфтящи жита.
Љубазни фењерџија чађавог лица хоће да ми покаже штос.
Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.
ἐν ἀρχῇ ἦν ὁ λόγος
Բել դղյակի ձախ ժամն օֆ ազգությանը ցպահանջ չճշտած վնաս էր եւ փառք։
დღეს კარგი ამინდია, მოდი ვისეირნოთ.
דג סקרן שט בים מאוכזב ולפתע מצא חברה
בְּרֵאשִׁית בָּרָא אֱלֹהִים
نص حكيم له سر قاطع وذو شأن عظيم مكتوب على ثوب أخضر
بِسْمِ ٱللَّهِ ٱلرَّحْمَٰنِ
من این را می‌خواهم، نه آن را.
یہ اردو کا ایک جملہ ہے۔
ܫܠܡܐ ܥܠܟܘܢ
ދިވެހިބަސް
ऋषियों को सताने वाले दुष्ट राक्षसों का वध किया गया।
क्‍ष क्ष र्‍क
আমি বাংলায় গান গাই।
ਮੈਂ ਪੰਜਾਬੀ ਬੋਲਦਾ ਹਾਂ।
મને ગુજરાતી આવડે છે.
ମୁଁ ଓଡ଼ିଆ କହେ।
யாமறிந்த மொழிகளிலே தமிழ்மொழி போல் இனிதாவது எங்கும் காணோம்
నేను తెలుగు మాట్లాడుతాను.
ನಾನು ಕನ್ನಡ ಮಾತನಾಡುತ್ತೇನೆ.
ഞാൻ മലയാളം സംസാരിക്കും.
මම සිංහල කතා කරමි.
เป็นมนุษย์สุดประเสริฐเลิศคุณค่า กว่าบรรดาฝูงสัตว์เดรัจฉาน
ຂ້ອຍເວົ້າພາສາລາວ
ខ្ញុំនិយាយភាសាខ្មែរ
မြန်မာဘာသာစကား
བོད་སྐད་ཡིག
ᠮᠣᠩᠭᠣᠯ ᠬᠡᠯᠡ
我能吞下玻璃而不伤身体。
天地玄黃，宇宙洪荒。日月盈昃，辰宿列張。
いろはにほへと ちりぬるを
色は匂へど散りぬるを、我が世誰ぞ常ならむ
カタカナとひらがな、ｶﾅﾊﾝｶｸ
키스의 고유조건은 입술끼리 만나야 하고 특별한 기술은 필요치 않다.
하늘
ㄱㅏㄴㅏ
Tôi có thể ăn thuỷ tinh mà không hại gì.
Ça và là, Ḫ̣ Ẹ̀ ọ̀rọ̀ Yorùbá
እኔ አማርኛ እናገራለሁ።
ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ
ᐃᓄᒃᑎᑐᑦ
𐌼𐌰𐌲 𐌲𐌻𐌴𐍃
𓀀𓂀𓅓 𒀭𒈗
𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟘𝟙𝟚 𝒜ℬ
ⓐⓑ①②⑩ Ⅳ ⅷ ½ ¾ ² ³ ₂ ९८७ ٣٤٥ ๑๒๓ ໑ 一二三 〇
ﬁ ﬂ ǆ ß ẞ ſ K Å
3.14159 1,234,567.89 0xDEADBEEF 1e-10 2026-11-24T08:00:00Z 192.168.0.1 50% $5 €7 £9 ¥100 ₹20 №5 §3
12345678901234567890
1st 2nd 3rd x2 b2b i18n
1 000 000
"""

CODE = [
    "e\u0301 n\u0303 o\u0308\u0304 Z\u0351\u036b\u0343",
    "int main(void) { return 0; }",
    "for (size_t i = 0; i < n; i++)\n\tsum += a[i] * b[i];\n",
    "def f(x, *args, **kw):\n    return [y**2 for y in x if y != 0]\n",
    "SELECT * FROM t WHERE id='42' AND name LIKE '%x%';",
    "#include <stdio.h>\n#define MAX(a,b) ((a)>(b)?(a):(b))\n",
    '{"key": [1, 2.5e-3, null, true], "s": "\\u00e9\\n"}',
    '<div class="a b"><p>Hello&nbsp;World</p><!-- x --></div>',
    "fn main() -> Result<(), Box<dyn Error>> { Ok(()) }",
    "https://user:pw@example.com:8080/a/b?q=1&r=%20#frag",
    "C:\\Windows\\System32\\x.dll",
    "mail@example.org",
    "$x = @{ $y->{'z'} } // 0;",
    "λx. λy. x ∘ y ∀ε>0 ∃δ ∑∫√∞ ≠ ≤ → ⇒ ∈ ∅",
    "== === != !== && || ?? ?. :: ... …",
    "/* comment */ // x\t\ty",
]

EMOJI = """
😀 😃 🥹 ❤ ❤️ 👍 👍🏽 👨‍👩‍👧‍👦 👩🏿‍🚀 🏳️‍🌈 🏴‍☠️ 🏴󠁧󠁢󠁥󠁮󠁧󠁿 🇩🇪 🇯🇵🇺🇸 1️⃣ #️⃣ ☃ ☃️ ✈️ 🤷🏻‍♀️ 🫠 🧑‍💻 👁️‍🗨️ 🕵️‍♂️ ⌚ ⏰ ♾️ 🅰️ ㊙️
"""

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<reponame>", "<file_sep>", "<jupyter_code>",
           "<|im_start|>system\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_start", "|im_end|>", "<|<|im_end|>|>",
           "<|im_ end|>", "<|IM_END|>", "<empty_output>", "<|im_end|><|im_end|>", "<gh_stars>5", "<issue_start>a"]

SPACES = ["\t", "\n", "\v", "\f", "\r", "\r\n", "\n\n", "\n \n", " ", "  ", "   ", "    ", "\t ", " \t", "\x85", "\xa0",
          "\u1680", "\u180e", "\u2000", "\u2003", "\u2007", "\u2009", "\u200a", "\u200b", "\u2028", "\u2029", "\u202f",
          "\u205f", "\u2060", "\u3000", "\ufeff", "\x1c", "\x1f", "\xad", " \xa0 ", "\n\u2003\t", "\xa0\xa0"]

RUNS = ["a", " ", "\n", "\t", "=", "-", "0", "9", ".", "'", "<", "é", "中", "の", "한", "\u0301", "\u200d", "\u3000",
        "\xa0", "😀", "\x00", "\x04", "\ufffd", "\U0010ffff", "A", "z", "_", "/", "\\", "#", "*", "я", "ا", "ก", "๑", "²"]


def fragments():
    sentences = CODE + SENTENCES.strip("\n").split("\n")
    words = [w for s in sentences for w in s.split(" ") if w]
    rnd = random.Random(1)
    odd = []
    by_category = {}
    for cp in range(0x110000):
        by_category.setdefault(unicodedata.category(chr(cp)), []).append(chr(cp))
    for cat in sorted(by_category):
        if cat != "Cs":
            odd += ["".join(rnd.choice(by_category[cat]) for _ in range(rnd.randint(1, 3))) for _ in range(12)]
    control = [chr(c) for c in range(32)] + ["\x7f"] + [chr(c) for c in range(0x80, 0xa0)]
    pieces = RUNS + sentences + words + EMOJI.split() + CONTROL * 3 + SPACES * 4 + control + odd
    pieces += list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~0123456789") * 2
    pieces += ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'l", "'r", " '", "''", "’s"] * 2
    return [p.encode() for p in pieces]


class Splitmix:
    def __init__(self, seed):
        self.s = seed & U64

    def next(self):
        self.s = (self.s + 0x9E3779B97F4A7C15) & U64
        z = self.s
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & U64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & U64
        return z ^ (z >> 31)


def make_text(frags, i):
    """Text number i: 1 to 12 fragments, a few of them repeated, some with a blank after."""
    r = Splitmix(i)
    out = b""
    for _ in range(1 + r.next() % 12):
        x = r.next()
        times = 2 + (x >> 40) % 30 if (x >> 32) % 16 == 0 else 1
        out += frags[(x & 0xFFFFFFFF) % len(frags)] * times
        if x >> 63:
            out += b" "
    return out.decode()


def fold(data, h=0xCBF29CE484222325):
    for b in data:
        h = ((h ^ b) * 0x100000001B3) & U64
    return (h >> 32 ^ h) & 0xFFFFFFFF


def pack(ids):
    return struct.pack(f"<{len(ids)}I", *ids)


def read_gguf(path):
    """Vocabulary, merges and token types of a GGUF file (v3): the metadata alone."""
    f = open(path, "rb")

    def u(fmt):
        return struct.unpack("<" + fmt, f.read(struct.calcsize(fmt)))[0]

    def text():
        return f.read(u("Q")).decode()

    def value(t):
        if t == 8:
            return text()
        if t == 9:
            sub, n = u("I"), u("Q")
            return [value(sub) for _ in range(n)]
        return u({0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}[t])

    assert f.read(4) == b"GGUF"
    u("I"), u("Q")
    return {text(): value(u("I")) for _ in range(u("Q"))}


def tokenizer(vocab, merges, pre):
    t = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    t.pre_tokenizer = pre
    t.decoder = decoders.ByteLevel()
    return t


def encode(t, texts):
    return [e.ids for e in t.encode_batch_fast(texts, add_special_tokens=False)]


def code_points(t):
    for first in range(0, 0x110000, 256):
        cps = [chr(c) for c in range(first, first + 256) if not 0xD800 <= c <= 0xDFFF]
        texts = [s for c in cps for s in ("a" + c + "b", "1" + c + "!")]
        yield fold(b"".join(pack(ids) for ids in encode(t, texts)))


def token_bytes(string, alphabet):
    return bytes(alphabet[c] for c in string) if all(c in alphabet for c in string) else string.encode()


def gpt2_alphabet():
    same = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in same]
    return {chr(b): b for b in same} | {chr(256 + i): b for i, b in enumerate(rest)}


def valid(b):
    try:
        return b.decode()
    except UnicodeDecodeError:
        return None


def rule_set(i):
    """Random merges over a..d, in random order; two may give the same token. Tokens are numbered as they appear."""
    r = Splitmix(1000003 * (i + 1))
    tokens, rules = ["a", "b", "c", "d"], []
    for _ in range(4 + r.next() % 40):
        left, right, at = r.next() % len(tokens), r.next() % len(tokens), r.next() % (len(rules) + 1)
        whole = tokens[left] + tokens[right]
        if (tokens[left], tokens[right]) in rules or len(whole) > 12:
            continue
        rules.insert(at, (tokens[left], tokens[right]))
        if whole not in tokens:
            tokens.append(whole)
    return tokens, rules, ["".join("abcd"[r.next() % 4] for _ in range(1 + r.next() % 40)) for _ in range(RULE_TEXTS)]


def main(model, out):
    meta = read_gguf(model)
    strings, types = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"]
    vocab = {s: i for i, s in enumerate(strings)}
    merges = [tuple(m.split(" ")) for m in meta["tokenizer.ggml.merges"]]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    smollm_pre = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    smollm, gpt2 = tokenizer(vocab, merges, smollm_pre), tokenizer(vocab, merges, byte_level)
    special = tokenizer(vocab, merges, smollm_pre)
    special.add_special_tokens([AddedToken(s, special=True, normalized=False) for s, t in zip(strings, types) if t == 3])

    frags = fragments()
    texts = [make_text(frags, i) for i in range(N_TEXTS)]
    runs = [s * RUN for s in RUNS]
    hashes = [fold(pack(ids)) for row in zip(*(encode(t, texts) for t in (smollm, special, gpt2))) for ids in row]
    hashes += [fold(pack(ids)) for row in zip(*(encode(t, runs) for t in (smollm, gpt2))) for ids in row]
    hashes += [h for row in zip(code_points(smollm), code_points(gpt2)) for h in row]
    alphabet = gpt2_alphabet()
    for first in range(0, len(strings), 64):
        own = [valid(token_bytes(s, alphabet)) for s in strings[first:first + 64]]
        hashes.append(fold(b"".join(pack(ids) for ids in encode(smollm, [s for s in own if s]))))
    for i in range(N_DECODES):
        r = Splitmix(i)
        ids = [r.next() % (512 if r.next() % 4 else len(strings)) for _ in range(1 + r.next() % 24)]
        hashes += [fold(special.decode(ids, skip_special_tokens=skip).encode()) for skip in (False, True)]

    with open(out, "wb") as f:
        f.write(b"HTK1" + pack([len(frags), N_TEXTS, len(RUNS), 0x1100, (len(strings) + 63) // 64, N_DECODES, N_RULE_SETS]))
        for b in frags:
            f.write(pack([len(b)]) + b)
        f.write(pack(hashes))
        for i in range(N_RULE_SETS):
            tokens, rules, rule_texts = rule_set(i)
            t = Tokenizer(models.BPE(vocab={s: k for k, s in enumerate(tokens)}, merges=rules))
            ids = [t.encode(s, add_special_tokens=False).ids for s in rule_texts]
            f.write(pack([fold(b"".join(map(pack, ids)))]))
    print(f"{len(frags)} fragments, {N_TEXTS} texts ({sum(map(len, texts))} characters)")


main(*sys.argv[1:])
