#!/usr/bin/env python3
"""Make a trace of long sessions with idle gaps, in the format of Mooncake's traces.

    make_sessions.py [--seed N] [--sessions N] [--tokens MIN MAX] [--turns MIN MAX] [--idle SECONDS] [--span SECONDS]
                     [--heads N] [--small] > sessions.jsonl

No public trace has sessions of 200k to 1M tokens that are put aside and taken up again. Here a session begins with one of
a few shared heads (system prompts), takes in a first long document, and goes on for some turns; each turn adds what was
generated before, a question, and sometimes another document. Between turns it idles, mostly for minutes, sometimes for
hours (log-normal). Lines are {"timestamp": ms, "input_length", "output_length", "hash_ids"}, one id for 512 tokens and
everything before them. The same arguments give the same trace.
"""

import argparse
import json
import math
import random
import sys

ID_TOKENS = 512


class Ids:
    """Ids for prefixes: the next free number for each prefix that is new."""

    def __init__(self):
        self.next = 0

    def fresh(self):
        self.next += 1
        return self.next - 1


def lengths(rng, a):
    """Tokens of a session at its first turn and at its last: log-uniform, so that each size is as common as its double."""
    last = math.exp(rng.uniform(math.log(a.tokens[0]), math.log(a.tokens[1])))
    return last * rng.uniform(0.3, 0.9), last


def prompt_ids(ids, chain, tokens):
    """The ids of a prompt that goes on from `chain`, the full ids so far; the last id of a prompt that does not fill it
    belongs to this prompt alone."""
    while len(chain) < tokens // ID_TOKENS:
        chain.append(ids.fresh())
    return chain[: tokens // ID_TOKENS] + ([ids.fresh()] if tokens % ID_TOKENS else [])


def session(rng, a, ids, head, start):
    first, last = lengths(rng, a)
    turns = rng.randint(a.turns[0], a.turns[1])
    chain, tokens, now = list(head), max(first, (len(head) + 1) * ID_TOKENS), start
    grow = (last / tokens) ** (1 / max(1, turns - 1)) if last > tokens else 1
    for _ in range(turns):
        output = int(min(4000, rng.lognormvariate(math.log(300), 0.8))) + 1
        yield {
            "timestamp": int(now * 1000),
            "input_length": int(tokens),
            "output_length": output,
            "hash_ids": prompt_ids(ids, chain, int(tokens)),
        }
        tokens = max(tokens * grow, tokens + output + rng.randint(20, 400))
        now += output / 50 + rng.lognormvariate(math.log(a.idle), 1.2)


def make(a):
    rng, ids = random.Random(a.seed), Ids()
    heads = [[ids.fresh() for _ in range(rng.randint(2, 12))] for _ in range(a.heads)]
    lines = []
    for _ in range(a.sessions):
        lines += session(rng, a, ids, rng.choice(heads), rng.uniform(0, a.span))
    return sorted(lines, key=lambda r: r["timestamp"])


def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--sessions", type=int, default=100)
    p.add_argument("--tokens", type=int, nargs=2, default=(200_000, 1_000_000), metavar=("MIN", "MAX"))
    p.add_argument("--turns", type=int, nargs=2, default=(2, 12), metavar=("MIN", "MAX"))
    p.add_argument("--idle", type=float, default=600, help="median seconds between turns")
    p.add_argument("--span", type=float, default=7200, help="seconds in which sessions begin")
    p.add_argument("--heads", type=int, default=4, help="system prompts that sessions share")
    p.add_argument("--small", action="store_true", help="the trace of tests: sessions of 2k to 60k tokens in minutes")
    a = p.parse_args(argv)
    if a.small:
        a.sessions, a.tokens, a.turns, a.idle, a.span = 250, (2_000, 60_000), (1, 6), 60, 900
    for pair in (a.tokens, a.turns):
        if not 0 < pair[0] <= pair[1]:
            p.error("MIN MAX: numbers above 0, the smaller one first")
    if min(a.sessions, a.heads) < 1 or a.idle <= 0 or a.span < 0:
        p.error("--sessions and --heads from 1 on, --idle above 0, --span not below")
    for line in make(a):
        print(json.dumps(line))


if __name__ == "__main__":
    sys.exit(main())
