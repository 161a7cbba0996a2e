"""Writes test vectors of the Hugging Face tokenizers library as JSON lines.

    python vectors.py [variants] [seed] | gzip -9n > vectors.jsonl.gz

A line {"name", "base" or "json", "patch"} starts a tokenizer: the file "base" (from the
top of the repository) with the fields of "patch" replaced. The lines that follow
belong to it: {"t": text, "i": ids, "s": ids with specials, "k": tokens with specials} and
{"d": ids, "x": text without specials, "y": text with them}. Made with tokenizers 0.23.3.
"""
import json, os, random, sys
from tokenizers import Tokenizer

variants, seed = int((sys.argv + ["60"])[1]), int((sys.argv + ["", "1"])[2])
rnd = random.Random(seed)
top = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
MISTRAL, MINI = "testdata/tokenizer/tokenizer.json", "mixtral/mini/checkpoint/tokenizer.json"
M = "\u2581"

ODD = ["", " ", "  ", "     ", "\n", "\r\n", "\r", "\t", " \n ", "\n\n\n", "a\r\nb\r\n\r\nc", "\u00a0", "\u3000x\u3000", "\u2028\u2029",
       "Hello", " Hello", "  Hello", "Hello ", "Hello  ", "Hello  world", " Hello   world  ", "\tdef f(x):\n\t\treturn x\n",
       M, M + M, M + "a", "a" + M, " " + M, M + " ", "a " + M + " b", "the" + M + "cat", M * 9, " " * 33,
       "<s>", "</s>", "<unk>", "<s></s>", "<s> </s>", "a<s>b", "a <s> b", " <s>", "<s> ", "<s>Hello</s>", "x</s></s>y", "<s", "</s", "s>", "<<s>>", "<S>",
       "<0x0A>", "<0xE4>", "<0xZZ>", "a<0x0A>b", "[INST] Hi [/INST]", "<|im_start|>", "<unk><unk>", "<unk> a <unk>",
       "\x00", "a\x00b", "\x01\x02\x7f", "\x1b[0m", "\u0085", "\ufeff", "\ufeffHello", "\ufffd", "\ufffe\uffff", "\U0010ffff", "\ue000",
       "e\u0301", "\u00e9", "a\u0300\u0301\u0302\u0303", "\u1112\u1161\u11ab", "\ud55c", "\u0e01\u0e33\u0e49", "\u200b\u200c\u200d\u2060",
       "\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466", "\U0001f1e9\U0001f1ea", "\U0001f44d\U0001f3fd", "\u2764\ufe0f", "1\ufe0f\u20e3",
       "\u4f60\u597d\uff0c\u4e16\u754c", "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8", "\u0645\u0631\u062d\u0628\u0627", "\u05e9\u05dc\u05d5\u05dd", "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440", "\u0928\u092e\u0938\u094d\u0924\u0947",
       "\U00020000\U0002a6d6", "\u9f98\u9f99\u9f96", "Stra\u00dfe \u00fcber M\u00fcnchen", "na\u00efve caf\u00e9", "\u2126\u212b", "\ufb01", "\u1e9e",
       "a" * 40, "ab" * 30, "the " * 20, "re e r" * 12, "{}();\n\t " * 6, "0123456789" * 4, "....!!!!????", "-" * 50, "=" * 17,
       "I'll, you've, it's; don't", "x = y**2 + 3.14e-10 # z", "http://example.com/a?b=c&d=%20#e", "user@example.com", "C:\\Windows\\n", "\\n\\t\\u2581",
       "\\frac{a}{b}", "<html><body>&nbsp;</body></html>", "\"quoted\" 'single' `code`", "CamelCaseAndsnake_case", "ALLCAPS MiXeD", "1,234,567.89", "\u00bd\u00b2\u2460"]
POOLS = ["abc ", "the cat ", "<s>/unk ", M + " a", "\u00e9e\u0301 ", "\u4f60\u597d\u4e16 ", "\U0001f600\u200d\U0001f469a ", "\n\r\t x", "\x00\x1f\x7f\u0080", "0123456789., ",
         "\u0434\u0430\u043d\u0435\u0442 ", "{}[]()<>=;:'\"\n ", "\u0300\u0301a\u093e\u0e33", "\U00010000\U0001ffff\ud7ff\ue000"]
BITS = ["<s>", "</s>", "<unk>", M, " ", "  ", "\n", "\u00e9", "\U0001f600", "the", " and", "<0x0A>", "\u4f60", "x"]


def text(n):
    if rnd.random() < .3:
        return "".join(rnd.choice(BITS) for _ in range(rnd.randrange(1, n)))
    if rnd.random() < .2:
        out = ""
        for _ in range(rnd.randrange(1, n)):
            c = rnd.choice([rnd.randrange(0x80), rnd.randrange(0x800), rnd.randrange(0x10000), rnd.randrange(0x110000)])
            out += chr(c) if not 0xd800 <= c < 0xe000 else "\ue001"
        return out
    pool = rnd.choice(POOLS)
    return "".join(rnd.choice(pool) for _ in range(rnd.randrange(1, n)))


def emit(d):
    print(json.dumps(d, ensure_ascii=False, separators=(",", ":")))


def run(name, texts, decodes, base=None, patch=None, spec=None):
    d = spec if spec else json.load(open(os.path.join(top, base)))
    d.update(patch or {})
    t = Tokenizer.from_str(json.dumps(d))
    emit({"name": name, **({"json": spec} if spec else {"base": base, "patch": patch or {}})})
    have = [i for i in range(t.get_vocab_size() + 40) if t.id_to_token(i) is not None]
    lists = []
    for x in texts:
        try:
            i, s = t.encode(x, add_special_tokens=False), t.encode(x)
        except BaseException:
            continue
        emit({"t": x, "i": i.ids, "s": s.ids, "k": s.tokens})
        lists.append(s.ids)
    bytes_ = [i for i in have if t.id_to_token(i).startswith("<0x")]
    for k in range(decodes):
        pool = bytes_ if bytes_ and k % 3 == 0 else have[:300] if k % 3 == 1 else have
        ids = [rnd.choice(pool) for _ in range(rnd.randrange(0, 7))]
        if k % 4 == 0:  # true characters in bytes, some of them broken
            for b in rnd.choice(["\u00e9", "\u4f60", "\U0001f600", "a\u00e9"]).encode()[:rnd.randrange(1, 6)]:
                one = t.token_to_id("<0x%02X>" % b)
                if one is not None:
                    ids.insert(len(ids) if rnd.random() < .8 else 0, one)
        lists.append(ids)
    for ids in lists:
        try:
            emit({"d": ids, "x": t.decode(ids, skip_special_tokens=True), "y": t.decode(ids, skip_special_tokens=False)})
        except BaseException:
            continue  # what panics there is not for us to repeat


NORM = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": M}, {"type": "Replace", "pattern": {"String": " "}, "content": M}]}
DEC = {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": M}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
                                        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}


def meta(scheme=None, split=None, prefix=None, rep=M):
    d = {"type": "Metaspace", "replacement": rep}
    for k, v in (("prepend_scheme", scheme), ("split", split), ("add_prefix_space", prefix)):
        if v is not None:
            d[k] = v
    return d


def added(i, content, **k):
    return {**{"id": i, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}, **k}


def small():
    """A made-up tokenizer: few characters, random merges and options."""
    coin = lambda p=.5: rnd.random() < p
    rep = "_" if coin(.1) else M
    chars = [rep] + rnd.sample(list("abcde<>s/x0A\n .") + ["\u00e9", "\u4f60", "\U0001f600"], rnd.randrange(4, 12))
    if coin(.1):
        chars.remove(rep)
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    fallback = coin(.7)
    for b in range(256):
        if fallback and (coin(.97) or coin(.5)) or b in (0x0a, 0xc3):
            vocab["<0x%02X>" % b] = len(vocab)
    for c in chars:
        vocab.setdefault(c, len(vocab))
    merges, cross = [], coin(.3)
    for _ in range(rnd.randrange(5, 60)):
        a, b = rnd.choice(list(vocab)[3 if coin(.9) else 0:]), rnd.choice(list(vocab)[3:])
        if coin(.9):
            a, b = rnd.choice(chars + [x + y for x, y in merges]), rnd.choice(chars + [x + y for x, y in merges])
        if len(a + b) > 12 or (a, b) in merges or (b.startswith(rep) and not a.endswith(rep) and not cross):
            continue
        vocab.setdefault(a + b, len(vocab))
        merges.append((a, b))
    if coin():
        rnd.shuffle(merges)
    ids = list(range(len(vocab)))
    unk = None if coin(.15) else "<unk>"
    if coin(.3):
        vocab["whole " + rep] = len(vocab)
    tokens = [added(0, "<unk>"), added(1, "<s>"), added(2, "</s>")]
    for c in ["<x>", "ab", "a b", "\n", " ", "x", "<x>ab", rep + "c", "</s"]:
        if coin(.3):
            special = coin()
            tokens.append(added(vocab.get(c, -1), c, special=special, normalized=coin(.5 if not special else .1), lstrip=coin(.3), rstrip=coin(.3), single_word=coin(.2)))
    n = len(vocab)
    for t in tokens:
        if t["id"] < 0:
            t["id"], n = n, n + 1
    pre = rnd.choice([None, None, meta("first", False, rep=rep), meta("always", False, rep=rep), meta("never", False, rep=rep), meta("first", True, rep=rep), meta(rep=rep), meta("never", prefix=False, rep=rep)])
    norm = rnd.choice([None, NORM, NORM["normalizers"][0], NORM["normalizers"][1],
                       {"type": "Sequence", "normalizers": [{"type": "Replace", "pattern": {"String": "ab"}, "content": "b"}, NORM]}])
    if pre and pre.get("prepend_scheme") == "first" and norm and "ab" in json.dumps(norm):
        norm = NORM
    post = rnd.choice([None, {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "B", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
                              "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                              "special_tokens": {"B": {"id": "B", "ids": [1, 0], "tokens": ["<s>", "<unk>"]}, "</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}}}])
    strip = {"type": "Strip", "content": rnd.choice(" a"), "start": rnd.randrange(3), "stop": rnd.randrange(3)}
    dec = rnd.choice([None, DEC, meta("always", rep=rep), meta("never", rep=rep), {"type": "ByteFallback"}, strip,
                      {"type": "Sequence", "decoders": DEC["decoders"][:3] + [strip]}, {"type": "Sequence", "decoders": DEC["decoders"][:2] + [strip]}])
    model = {"type": "BPE", "dropout": None, "unk_token": unk, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": coin(),
             "byte_fallback": fallback, "ignore_merges": coin(.3), "vocab": vocab, "merges": merges if coin() or any(" " in x + y for x, y in merges) else [x + " " + y for x, y in merges]}
    if not model["ignore_merges"] and coin():
        del model["ignore_merges"]
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": tokens, "normalizer": norm, "pre_tokenizer": pre, "post_processor": post, "decoder": dec, "model": model}, chars


for name, base in (("mistral", MISTRAL), ("mini", MINI)):
    run(name, ODD + [text(30) for _ in range(2 * variants)], 2 * variants, base=base)
    for scheme in ("first", "always", "never"):
        for split in (False, True):
            if base == MISTRAL and split != (scheme == "always"):
                continue  # it takes long to read
            patch = {"normalizer": None, "pre_tokenizer": meta(scheme, split)}
            run(f"{name} {scheme} {split}", rnd.sample(ODD, 40) + [text(30) for _ in range(variants // 4)], 0, base=base, patch=patch)
for k in range(variants):
    spec, chars = small()
    texts = ["", " ", "a<s>b", " <s> <x> </s>"]
    for _ in range(12):
        pool = chars + [" ", " ", "<x>", "ab", "<s>", "\n", "\u00e9", "\u00df", "q", "a b", "x", M]
        texts.append("".join(rnd.choice(pool) for _ in range(rnd.randrange(1, 14))))
    texts.append("".join(rnd.choice(chars) for _ in range(80)))
    run(f"small {k}", texts, 12, spec=spec)
