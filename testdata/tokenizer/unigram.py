"""Makes the fixtures of the Unigram tokenizer: a small T5 tokenizer and test vectors.

    python unigram.py model > unigram.json
    python unigram.py vectors [texts] [seed] | gzip -9n > unigram.jsonl.gz

"model" trains 1,000 pieces with sentencepiece on the validation texts of the corpus (English, German, Chinese, code) with
its real nmt_nfkc table, and writes what transformers' T5Tokenizer makes of them. "vectors" writes JSON lines: {"name",
"base" or "json", "patch"} starts a tokenizer, the file "base" (from the top of the repository) with the fields of "patch"
replaced ("@nmt_nfkc" is the table of unigram.json). The lines that follow belong to it: {"t": text, "i": ids, "s": ids with
specials, "k": tokens with specials, as in the vocabulary, "o": the first and last byte of each} and {"d": ids, "x": text
without specials, "y": text with them}. {"n": number, "v": its value as a score} are numbers as the library reads them. With
more texts than the default, a fuzzer. Made with tokenizers 0.23.3, transformers 5.24.0 and sentencepiece 0.2.3.
"""
import base64, io, json, os, random, subprocess, sys, tempfile
from tokenizers import Tokenizer

top = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
BASE = "testdata/tokenizer/unigram.json"
MINI = "mixtral/mini/checkpoint/tokenizer.json"
M = "\u2581"


def corpus():
    data = subprocess.run(["zstd", "-dc", os.path.join(top, "testdata/corpus/valid.jsonl.zst")], check=True, stdout=subprocess.PIPE).stdout
    return [json.loads(line)["text"] for line in data.decode().splitlines()]


def train(texts, **options):
    """The pieces and the table of a sentencepiece model."""
    import sentencepiece as sp
    from sentencepiece import sentencepiece_model_pb2 as pb
    out = io.BytesIO()
    sp.SentencePieceTrainer.train(sentence_iterator=iter([s for t in texts for s in t.split("\n") if s.strip()]), model_writer=out, model_type="unigram",
                                  num_threads=1, minloglevel=2, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, **options)
    m = pb.ModelProto()
    m.ParseFromString(out.getvalue())
    return [(p.piece, p.score) for p in m.pieces], m.normalizer_spec.precompiled_charsmap


def model():
    from transformers import T5Tokenizer
    pieces, table = train(corpus(), vocab_size=1000, character_coverage=.99, normalization_rule_name="nmt_nfkc", max_sentence_length=100000)
    pieces += [(f"<extra_id_{i}>", 0.0) for i in range(9, -1, -1)]
    t = T5Tokenizer(vocab=pieces, extra_ids=10, _spm_precompiled_charsmap=table)
    d = json.loads(t.backend_tokenizer.to_str())
    print(json.dumps(d, ensure_ascii=False, separators=(",", ":")))


# Whitespace of all kinds, combining marks, emoji, scripts, widths, ligatures, controls, unknown characters, added tokens.
ODD = ["", " ", "  ", "\n", "\r\n", "\r", "\t", "\v\f", " \n ", "a\r\nb\r\n\r\nc", "\u00a0", "a\u00a0b", "\u3000x\u3000", "a\u2028b\u2029c", "\u1680\u2000\u2009\u202f\u205f", "\u0085", "a\u0085b",
       "Hello", " Hello", "Hello ", "Hello  world", "  Hello   world  ", "\tdef f(x):\n\t\treturn x\n", "the  the", " " * 33 + "x", "a" + " " * 20,
       M, M + M, M + "a", "a" + M, " " + M, M + " ", "a " + M + " b", M * 9,
       "<extra_id_0>", "<extra_id_9>", "<extra_id_10>", "A <extra_id_0> B <extra_id_1>.", "a<extra_id_3>b", " <extra_id_1> ", "<extra_id_1><extra_id_2>", "<extra_id_", "<EXTRA_ID_0>", "\uff1cextra_id_0\uff1e",
       "</s>", "<pad>", "<unk>", "a</s>b", "a <unk> b", "<unk><unk>", "<pad>x", "</s", "<\u200b/s>", "x</s></s>",
       "\x00", "a\x00b", "\x01\x02\x7f", "\x01a", "a\x01", "\x1b[0m", "\x8f\x9f", "\ufeff", "\ufeffHello", "\ufffd", "\ufffe\uffff", "\U0010ffff", "\ue000",
       "e\u0301", "\u00e9", "e\u0301\u0301", "a\u0300\u0301\u0302\u0303", "\u0301", "\u0301a", " \u0301", "\n\u0301", "\ufb01\u0301", "\uff21\u0301", "\u1112\u1161\u11ab", "\ud55c", "\u1112\u1161", "\u0e01\u0e33\u0e49", "\u0b95\u0bcb", "\u0928\u093f",
       "\u200b\u200c\u200d\u2060", "a\u200bb", "a\u200db", "\u200d", "\u00adx", "a\u200c",
       "\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466", "\U0001f1e9\U0001f1ea", "\U0001f1e9\U0001f1ea\U0001f1eb", "\U0001f44d\U0001f3fd", "\u2764\ufe0f", "1\ufe0f\u20e3", "\u00a9\ufe0f", "x\ufe0f",
       "\u4f60\u597d\uff0c\u4e16\u754c", "\u6642\u5e73\u5f8c\u9001\u7bc4\u502b\u6b78\u5b89\u5dde", "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8", "\uff76\uff9e\uff77\uff9e", "\u304b\u3099", "\u30cf\u309a\uff9f", "\u3250\u32ff\u3300\u33c2", "\ufdfa", "\ufdfa\ufdfb", "\u0645\u0631\u062d\u0628\u0627", "\ufefb\ufee1",
       "\u05e9\u05dc\u05d5\u05dd", "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440", "\u0928\u092e\u0938\u094d\u0924\u0947", "\u0915\u094d\u0937", "\u0f73\u0f75\u0f81", "\u0344\u0340\u0341", "\u0958\u09dc\u0a33",
       "\uff21\uff22\uff23\uff11\uff12\uff13", "\uff01\uff1f\uff5e", "\ufb00\ufb01\ufb02\ufb03\ufb04\ufb05\ufb06", "\u0132\u0133\u01c4\u01f1", "\u2126\u212b\u212a", "\u00bd\u00b2\u2460\u24b6\u2163\u3231", "\U0001d400\U0001d7d8\U0001d6c0", "\u2026\u2025\u2024", "\u00aa\u00ba\u00b5", "\u0149", "\u1e9b\u0323", "\u1e9e",
       "\U00020000\U0002a6d6", "\ufa0e\uf900\uf9ff", "\u2f00\u2fd5", "\u3131\u3164\uffa0", "\U0001100a\U00011099\U000110ba", "\u0600\u0661", "\u0d4e\u0d15", "\u0600a",
       "Stra\u00dfe \u00fcber M\u00fcnchen", "(4) Der Gerichtsvollzieher kann auch ohne", "na\u00efve caf\u00e9", "\u00c4\u00d6\u00dc\u00e4\u00f6\u00fc", "\u20ac 5, \u00a3 6",
       "a" * 40, "ab" * 30, "the " * 20, "aaaaabaaaaa", "{}();\n\t " * 6, "0123456789" * 4, "....!!!!????", "-" * 50, "I'll, you've, it's; don't", "http://example.com/a?b=c&d=%20#e", "\\n\\t\\u2581", "\"quoted\" 'single' `code` ``x''",
       "\u0416" * 5, "\u0416a\u0416\u0416b \u0416 \u0416\u0416", "x\u0416 \u0416y", "\U0001f600\U0001f601 \U0001f602", "a\u2603\u2604b", "\u2603 </s>\u2603"]
POOLS = ["abc ", "the cat ", "<>extra_id0/sunk ", M + " a", "\u00e9e\u0301 \u0308a", "\u4f60\u597d\u4e16\u65e5 ", "\U0001f600\u200d\U0001f469a\ufe0f\U0001f3fd\U0001f1e9\U0001f1ea ", "\n\r\t x\v\f\u0085\u2028", "\x00\x01\x1f\x7f\u0080\u008fa ", "0123456789., ",
         "\u0434\u0430\u043d\u0435\u0442 ", "{}[]()<>=;:'\"\n ", "\u0300\u0301a\u093e\u0e33\u0345 ", "\U00010000\U0001ffff\ud7ff\ue000", "\uff21\uff41\uff11\uff0c\u3000\uff76\uff9e\uff9f", "\ufb01\ufb03\u00bd\u2460\u33c2\ufdfa a",
         "\u1100\u1161\u11a8\uac00\uac01", "\u0915\u094d\u0937\u093f\u200d\u200c\u0903", "\u0600\u0661\u110bd\u0d4ea", "\u00df\u1e9e\u0130\u0131\u01c5\u03a3\u03c2A", "e\u0323\u0301\u0302o", "\u00a0\u2003\u202f\u200b\ufeff a"]
BITS = ["<extra_id_0>", "<extra_id_7>", "</s>", "<unk>", M, " ", "  ", "\n", "\r\n", "\u00e9", "e\u0301", "\ufb01", "\U0001f600", "the", " and", "ing", "Der ", "\u4f60", "\u0416", "x", "\u200d", "\u0301", "\x01", "\u3000", "."]


class Texts:
    def __init__(self, rnd):
        self.rnd, self.corpus = rnd, corpus()

    def any(self, n=30):
        rnd = self.rnd
        k = rnd.random()
        if k < .2:
            return "".join(rnd.choice(BITS) for _ in range(rnd.randrange(1, n)))
        if k < .35:
            out = ""
            for _ in range(rnd.randrange(1, n)):
                c = rnd.choice([rnd.randrange(0x80), rnd.randrange(0x800), rnd.randrange(0x10000), rnd.randrange(0x20000), rnd.randrange(0x110000)])
                out += chr(c) if not 0xd800 <= c < 0xe000 else "\ue001"
            return out
        if k < .6:
            pool = rnd.choice(POOLS) + (rnd.choice(POOLS) if rnd.random() < .3 else "")
            return "".join(rnd.choice(pool) for _ in range(rnd.randrange(1, n)))
        t = rnd.choice(self.corpus)
        at = rnd.randrange(len(t))
        t = t[at:at + rnd.randrange(1, 4 * n)]
        for _ in range(rnd.randrange(4)):  # with something odd inside
            at = rnd.randrange(len(t) + 1)
            t = t[:at] + rnd.choice([rnd.choice(ODD)[:12], rnd.choice(rnd.choice(POOLS)), rnd.choice(BITS)]) + t[at + rnd.randrange(2):]
        return t


def emit(d):
    print(json.dumps(d, ensure_ascii=False, separators=(",", ":")))


def named(v, table):
    """v with the table written out."""
    if v == "@nmt_nfkc":
        return table
    if isinstance(v, dict):
        return {k: named(x, table) for k, x in v.items()}
    return [named(x, table) for x in v] if isinstance(v, list) else v


def run(name, texts, rnd, base=None, patch=None, spec=None, table=None, decodes=0, offsets=True):
    d = spec if spec else json.load(open(os.path.join(top, base)))
    d.update(named(patch or {}, table))
    t = Tokenizer.from_str(json.dumps(d))
    emit({"name": name, **({"json": spec} if spec else {"base": base, "patch": patch or {}})})
    unk = d["model"].get("unk_id")
    have = [i for i in range(t.get_vocab_size()) if t.id_to_token(i) is not None]
    for x in texts:
        try:
            i, s = t.encode(x, add_special_tokens=False), t.encode(x)
        except BaseException:  # it panics where two added tokens overlap
            continue
        at = [0]
        for c in x:
            at.append(at[-1] + len(c.encode()))
        tokens = [t.id_to_token(unk) if id == unk else k for id, k in zip(s.ids, s.tokens)]
        emit({"t": x, "i": i.ids, "s": s.ids, "k": tokens, **({"o": [[at[a], at[b]] for a, b in s.offsets]} if offsets else {})})
        if rnd.random() < decodes:
            ids = s.ids if rnd.random() < .5 else [rnd.choice(have) for _ in range(rnd.randrange(7))]
            emit({"d": ids, "x": t.decode(ids, skip_special_tokens=True), "y": t.decode(ids, skip_special_tokens=False)})


def meta(scheme="always", split=True, old=False):
    if old:
        return {"type": "Metaspace", "replacement": M, "add_prefix_space": True, "str_rep": M}
    return {"type": "Metaspace", "replacement": M, "prepend_scheme": scheme, "split": split}


def seq(kind, *steps):
    return {"type": "Sequence", kind: list(steps)}


def replace(content, **pattern):
    return {"type": "Replace", "pattern": pattern, "content": content}


def added(i, content, **k):
    return {**{"id": i, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}, **k}


NMT = {"type": "Precompiled", "precompiled_charsmap": "@nmt_nfkc"}
RIGHT = {"type": "Strip", "strip_left": False, "strip_right": True}
TWO = replace(M, Regex=" {2,}")
# What transformers has made of T5's file over the years, and of Unigram models without a class.
PIPELINES = {
    "T5Tokenizer of transformers 5": {},
    "first files": {"pre_tokenizer": seq("pretokenizers", {"type": "WhitespaceSplit"}, meta(old=True)), "decoder": meta(old=True)},
    "Metaspace": {"pre_tokenizer": meta()},
    "converted": {"normalizer": seq("normalizers", NMT, RIGHT, TWO), "pre_tokenizer": meta()},
    "converted, not legacy": {"normalizer": seq("normalizers", NMT, RIGHT, TWO), "pre_tokenizer": meta("first"), "decoder": meta("first")},
    "converted, no prefix": {"normalizer": seq("normalizers", NMT, RIGHT, TWO), "pre_tokenizer": meta("never"), "decoder": meta("never")},
    "without a class": {"normalizer": seq("normalizers", NMT, replace("", Regex=r"\A +| +\z"), replace(" ", Regex=" {2,}"), replace(M, String=" "), replace(M + M, Regex=r"\A" + M)),
                        "pre_tokenizer": seq("pretokenizers", meta(split=False)), "decoder": seq("decoders", replace(" ", String=M), {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0})},
    "no normalizer": {"normalizer": None, "pre_tokenizer": meta("first", False)},
    "nmt": {"normalizer": seq("normalizers", {"type": "Nmt"}, {"type": "Lowercase"}, {"type": "Strip", "strip_left": True, "strip_right": True}), "pre_tokenizer": meta("first")},
    "white space first": {"normalizer": {"type": "Nmt"}, "pre_tokenizer": seq("pretokenizers", {"type": "WhitespaceSplit"}, meta("first"))},
    "no pre-tokenizer": {"normalizer": seq("normalizers", {"type": "Prepend", "prepend": M}, NMT, replace(M, String=" ")), "pre_tokenizer": None},
}


def small(rnd, tables):
    """A made-up tokenizer: few characters, scores with ties, any options."""
    coin = lambda p=.5: rnd.random() < p
    chars = [M] + rnd.sample(list("abcde<>s/x0A\n .") + ["\u00e9", "\u4f60", "\U0001f600", "e\u0301"], rnd.randrange(3, 10))
    tokens = ["<pad>", "</s>", "<unk>"]
    tokens += [c for c in chars if coin(.85)]
    fallback = coin(.4)
    tokens += ["<0x%02X>" % b for b in range(256) if fallback and (coin(.99) or coin(.7))]
    for _ in range(rnd.randrange(4, 60)):
        tokens.append("".join(rnd.choice(chars) for _ in range(rnd.randrange(2, 6))))
    tokens = list(dict.fromkeys(tokens))
    if coin(.3):
        rnd.shuffle(tokens)
    kind = rnd.randrange(4)
    score = [lambda: -rnd.randrange(4), lambda: -rnd.random() * 15, lambda: float("%.15g" % (-rnd.random() * 5)), lambda: -.1 * rnd.randrange(30)][kind]
    vocab = [[k, 0.0 if k in ("<pad>", "</s>", "<unk>") and coin(.8) else score()] for k in tokens]
    if coin(.1):
        vocab = [[k, s + 40] for k, s in vocab]  # an unknown character may be more probable than a token
    adds = [added(i, k) for i, k in enumerate(tokens) if k in ("<pad>", "</s>", "<unk>") and coin(.8)]
    n = len(tokens)
    for c in ["<x>", "ab", "a b", "\n", " ", "x", M + "c", "</s", "\ufb01"]:
        if coin(.2):
            special = coin()
            adds.append(added(tokens.index(c) if c in tokens else n, c, special=special, normalized=not special, lstrip=coin(.3), rstrip=coin(.3), single_word=coin(.2)))
            n += c not in tokens
    table = {"type": "Precompiled", "precompiled_charsmap": rnd.choice(tables)}
    norm = rnd.choice([None, table, seq("normalizers", table, RIGHT, TWO), seq("normalizers", {"type": "Nmt"}, table), seq("normalizers", {"type": "Lowercase"}, replace("b", String="ab"))])
    scheme = rnd.choice(["always", "always", "never", "first"])
    if norm and "Lowercase" in json.dumps(norm) or any(a["normalized"] for a in adds):
        scheme = "always"  # first is not implemented there
    pre = rnd.choice([None, meta(scheme), meta(scheme), meta(scheme, False), seq("pretokenizers", {"type": "WhitespaceSplit"}, meta("always" if norm and scheme == "first" else scheme))])
    dec = rnd.choice([None, meta(), meta("never"), seq("decoders", replace(" ", String=M), {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0})])
    if norm:  # the library panics where an added token is normalized to nothing, and takes any of two that are normalized to the same
        t = Tokenizer.from_str(json.dumps({"version": "1.0", "added_tokens": [], "normalizer": norm, "model": {"type": "Unigram", "unk_id": 0, "vocab": [["a", 0]]}}))
        seen = {""}
        for a in adds:
            if a["normalized"]:
                content = t.normalizer.normalize_str(a["content"])
                a["normalized"] = content not in seen
                seen.add(content)
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": adds, "normalizer": norm, "pre_tokenizer": pre, "post_processor": None, "decoder": dec,
            "model": {"type": "Unigram", "unk_id": tokens.index("<unk>"), "vocab": vocab, "byte_fallback": fallback}}, chars


def numbers(rnd, n):
    """How the library reads numbers: it writes those of a vocabulary in their shortest form."""
    import struct
    texts = ["0", "-0", "-0.0", "1e-400", "1e308", "-1.7976931348623157e308", "5e-324", "18446744073709551615", "18446744073709551616", "-9223372036854775809", "123456789012345678901234567890", "1.23456789012345678901234567890e-5",
             "0.000000000000000000000000000000123456789", "1E2", "1e+2", "2.5E-3", "100000000000000000000000.5", "184467440737095516.159", "0e999999999999"]
    for _ in range(n):
        x = -rnd.random() * 20
        texts.append(repr(rnd.choice([x, struct.unpack("f", struct.pack("f", x))[0], x * 10.0 ** rnd.randrange(-30, 30)])))
    d = {"version": "1.0", "added_tokens": [], "model": {"type": "Unigram", "unk_id": 0, "vocab": []}}
    vocab = ",".join(f'["{i}",{x}]' for i, x in enumerate(texts))
    got = json.loads(Tokenizer.from_str(json.dumps(d).replace('"vocab": []', f'"vocab": [{vocab}]')).to_str())["model"]["vocab"]
    for x, (_, v) in zip(texts, got):
        emit({"n": x, "v": float(v)})


def vectors(count, seed):
    rnd = random.Random(seed)
    texts = Texts(rnd)
    table = json.load(open(os.path.join(top, BASE)))["normalizer"]["precompiled_charsmap"]
    tables = []
    for rules in ["61\t62 62\n62\t\nE9\t65\n65 301\tE9\n20\t2581\nA\t20\nD\t20\n", "D A\t78\n1F600\t61 62 63\nFB01\t66 69\n65 301 301\t30\n1100 1161\tAC00\n", "20\t\n4F60\t20\n61\t2581 2581\n"]:
        with tempfile.NamedTemporaryFile("w", suffix=".tsv") as f:  # tables of few rules, some of which remove characters
            f.write(rules)
            f.flush()
            tables.append(base64.b64encode(train(["zy zz yzy xyz"] * 9, vocab_size=8, hard_vocab_limit=False, normalization_rule_tsv=f.name)[1]).decode())
    numbers(rnd, max(200, count // 50))
    for name, patch in PIPELINES.items():
        more = [texts.any() for _ in range(count // 2 // len(PIPELINES))]
        run(name, (ODD if not patch else rnd.sample(ODD, 40)) + more + ([" ".join(texts.corpus)[:2000]] if not patch else []), rnd, base=BASE, patch=patch, table=table, decodes=.3)
    # The mini Switch Transformer has the mini Mixtral's BPE with 32 sentinels and </s> after the text.
    sentinels = [added(i, k) for i, k in enumerate(["<unk>", "<s>", "</s>"])] + [added(4096 + i, f"<extra_id_{i}>") for i in range(32)]
    template = [[{"Sequence": {"id": x, "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}] for x in "AB"]
    post = {"type": "TemplateProcessing", "single": template[0], "pair": template[0] + template[1], "special_tokens": {"</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}}}
    run("mini Switch", [x for x in ODD if "extra_id" in x] + [texts.any() for _ in range(40)] + [x[:300] for x in rnd.sample(texts.corpus, 20)], rnd, base=MINI, patch={"added_tokens": sentinels, "post_processor": post}, decodes=1, offsets=False)
    for k in range(max(30, count // 80)):
        spec, chars = small(rnd, tables)
        pool = chars + [" ", " ", "<x>", "ab", "<s>", "\n", "\r\n", "\u00e9", "\u0301", "\ufb01", "q", "a b", M, "\u0416"]
        more = ["".join(rnd.choice(pool) for _ in range(rnd.randrange(1, 14))) for _ in range(32)] + ["".join(rnd.choice(chars) for _ in range(80))]
        run(f"small {k}", ["", " ", "a<unk>b", " </s> <x>"] + more[:36 if count > 2000 else 8] + [texts.any(12) for _ in range(4)], rnd, spec=spec, decodes=.3, offsets=False)


if sys.argv[1:2] == ["model"]:
    model()
else:
    vectors(int(sys.argv[2] if len(sys.argv) > 2 else 500), int(sys.argv[3] if len(sys.argv) > 3 else 1))
