#!/usr/bin/env python3
"""Write jinja_cases.jsonl: small templates and what Jinja2, as Transformers configures it, makes of them.

    python3 tests/golden/make_jinja_cases.py        (needs jinja2 3.1.6; run by hand after a change of CASES)

Each line is {"t": template, "ok": text} or {"t": template, "refused": true}. The variables are VARS for all.
"""

import json

from jinja_oracle import environment

VARS = {
    "s": "Hello, World",
    "u": "äÖß ﬁ漢字🙂",
    "ws": " \t two  words\n",
    "lines": "a\nb\r\n\nc\u2028d",
    "n": 7,
    "neg": -3,
    "f": 2.5,
    "t": True,
    "no": False,
    "nil": None,
    "xs": [3, 1, 2],
    "mixed": ["b", "A", "c", "a"],
    "empty": [],
    "d": {"b": 1, "a": [1, 2], "items": "key", "get": 5, "C": None},
    "msgs": [
        {"role": "user", "content": "hi", "n": 2, "tags": ["x", "y"]},
        {"role": "assistant", "content": "ho", "n": 1, "extra": {"k": "v"}},
        {"role": "user", "content": None, "n": 3},
    ],
    "tree": [{"n": "1", "c": [{"n": "1.1", "c": []}, {"n": "1.2", "c": [{"n": "1.2.1", "c": []}]}]}, {"n": "2", "c": []}],
    "floats": [0.1, 1e16, 1e-5, 123456789012345680.0, 1.0, -0.0, 1e300, 5e-324, 100.0, 0.0001, 3.14159],
    "big": 12345678901234567890123,
    "html": "<a href=\"x\">'&'</a>",
    "esc": "tab\tnl\nq'dq\"b\\c\x01\x7f\u00e9\u200b",
}

CASES = r"""
plain
{{ s }}{{ u }}{{ n }}{{ f }}{{ t }}{{ nil }}{{ missing }}
a {# comment #} b
a {#- x -#} b
{{- ' x ' -}} y
a
{{ xs }}|{{ d }}|{{ msgs }}
{{ floats }}
{{ floats|tojson }}
{{ big }} {{ big|tojson }} {{ [big] }} {{ big is integer }} {{ big is number }} {{ big == big }}
{{ esc }}|{{ [esc] }}|{{ esc|tojson }}|{{ esc|tojson(ensure_ascii=true) }}
{{ [u, s, "it's", 'say "x"', "both ' \""] }}
{{ (1,) }}{{ () }}{{ (1, 2) }}{{ [(1,), {}] }}
{{ {1: 'a', 'b': none, true: 2.0, (1, 2): 3} }}
{{ 'a' 'b' "c" }}
{{ "\x41\u00e9\U0001F642\n\t\\\'\"\101\q" }}
{{ 1_000 + 0x1f + 0b11 + 0o17 }} {{ 1e3 }} {{ 1.5e-7 }} {{ 2_0.5 }} {{ 1.0 }} {{ 10 ** 16 }} {{ 1e16 }}
{{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7 / 2 }} {{ 6 / 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ -7.5 // 2 }} {{ -7.5 % 2 }}
{{ 1 + 2 * 3 - 4 / 2 }} {{ (1 + 2) * 3 }} {{ -2 ** 2 }} {{ 2 ** 3 ** 2 }} {{ - - 3 }} {{ +t }} {{ 1 - -1 }}
{{ 1 / 0 }}
{{ 1 % 0 }}
{{ 1 // 0 }}
{{ 9223372036854775807 }}
{{ 'ab' * 3 }} {{ 3 * 'ab' }} {{ [1] * 2 }} {{ 'x' * -1 }} {{ (1,) * 2 }} {{ t * 3 }}
{{ 'a' + 1 }}
{{ 1 + 'a' }}
{{ none + 1 }}
{{ missing + 1 }}
{{ 'a' ~ 1 ~ none ~ true ~ 1.0 ~ missing ~ [1] }}
{{ 1 < 2 < 3 }} {{ 1 < 2 > 3 }} {{ 1 == 1.0 }} {{ 1 == true }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ (1,) == [1] }} {{ none == none }} {{ 'a' != 'b' }}
{{ 1 < 'a' }}
{{ none < 1 }}
{{ missing < 1 }}
{{ missing == missing }} {{ missing == none }} {{ missing != 1 }} {{ not missing }}
{{ 'ell' in s }} {{ 'x' not in s }} {{ 1 in xs }} {{ 'a' in d }} {{ 9 in xs }} {{ 1 in (1, 2) }} {{ '' in '' }}
{{ 1 in 'a' }}
{{ 1 in 5 }}
{{ 1 in missing }} {{ 'a' in empty }}
{{ t and 1 }} {{ 0 or 'x' }} {{ '' or empty or none }} {{ 1 and 0 and 2 }} {{ not 1 }} {{ not not 1 }} {{ 1 or missing.x }}
{{ 'a' if t else 'b' }} {{ 'a' if no }} {{ 'a' if no else 'b' if no else 'c' }} {{ ('x' if no) is defined }}
{{ xs[0] }} {{ xs[-1] }} {{ xs[5] }} {{ s[0] }} {{ s[-1] }} {{ u[3] }} {{ u[-1] }} {{ u[99] }} {{ d['b'] }} {{ d['zz'] }} {{ (1,2)[1] }}
{{ xs[1:] }} {{ xs[:-1] }} {{ xs[::-1] }} {{ xs[::2] }} {{ xs[5:] }} {{ xs[-2:] }} {{ s[1:4] }} {{ s[::-1] }} {{ u[1:-1] }} {{ u[::-2] }} {{ s[:100] }} {{ (1,2,3)[1:] }} {{ xs[2:0:-1] }} {{ s[-5:-2] }} {{ xs[3:1] }}
{{ xs[::0] }}
{{ nil[1:] }}
{{ missing[1:] }}
{{ d[1:] }}
{{ xs['a'] }} {{ xs.a }} {{ nil.a }} {{ n.a }} {{ s.a }}
{{ nil.a.b }}
{{ missing.a }}
{{ missing['a'] }}
{{ d.b }} {{ d.a[1] }} {{ d.a.1 }} {{ d.zz }} {{ d['items'] }} {{ d.get('b') }} {{ d.get('zz') }} {{ d.get('zz', 3) }} {{ d['get'] }}
{{ d.items()|list }} {{ d.keys()|list }} {{ d.values()|list }} {{ d.items() }} {{ d.keys() }} {{ d.values() }}
{{ d.items()[0] }}
{{ d.keys()|length }} {{ d|length }} {{ d|list }} {{ d.copy() == d }}
{{ d.update({}) }}
{{ d.pop('a') }}
{{ xs.append(1) }}
{{ xs.append is defined }} {{ xs.append }}
{{ xs.index(1) }} {{ xs.count(1) }} {{ (1, 1).count(1) }}
{{ xs.index(9) }}
{{ d.__class__ }} {{ s.__class__ }}
{{ s.__class__.x }}
{{ s.upper() }} {{ s.lower() }} {{ u.upper() }} {{ u.lower() }} {{ 'hELLO wORLD'.title() }} {{ 'hELLO wORLD'.capitalize() }} {{ u.title() }} {{ 'ǆ'.title() }} {{ "they're x-ray".title() }} {{ 'ﬁ ŉ ᾳ'.upper() }} {{ 'aB'.swapcase() }} {{ 'ß'.capitalize() }}
{{ s|upper }} {{ u|lower }} {{ "they're x-ray (foo) a[b]"|title }} {{ 'hELLO'|capitalize }} {{ 5|upper }} {{ none|lower }}
{{ ws.strip() }}|{{ ws.lstrip() }}|{{ ws.rstrip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'abcba'.strip('ab') }}|{{ 'äxä'.strip('ä') }}|{{ '\u00a0x\u2003'.strip() }}|{{ ''.strip() }}|{{ 'xx'.strip('x') }}|{{ ' a '.strip(none) }}
{{ ws|trim }}|{{ 'xax'|trim('x') }}|{{ 5|trim }}|{{ none|trim }}|{{ missing|trim }}|
{{ 'a,b,,c'.split(',') }} {{ 'a,b,,c'.split(',', 1) }} {{ 'a,b,,c'.rsplit(',', 1) }} {{ ws.split() }} {{ ' a  b c '.split(none, 1) }} {{ ' a  b c '.rsplit(none, 1) }} {{ ''.split() }} {{ ''.split(',') }} {{ 'a'.split('a') }} {{ 'aXXbXXc'.split('XX') }} {{ 'a b'.split(maxsplit=0) }} {{ 'a-b-c'.rsplit('-') }}
{{ 'a'.split('') }}
{{ lines.splitlines() }} {{ 'a\n\nb\n'.splitlines() }} {{ 'a\nb'.splitlines(true) }} {{ ''.splitlines() }}
{{ 'a=b=c'.partition('=') }} {{ 'a=b=c'.rpartition('=') }} {{ 'abc'.partition('=') }} {{ 'abc'.rpartition('=') }}
{{ s.replace('l', 'L') }} {{ s.replace('l', 'L', 1) }} {{ s.replace('zz', 'y') }} {{ 'abc'.replace('', '-') }} {{ 'abc'.replace('', '-', 2) }} {{ 'aaa'.replace('aa', 'b') }}
{{ s|replace('l', 'L') }} {{ s|replace('l', 'L', 1) }} {{ 5|replace(5, 6) }}
{{ s.startswith('Hell') }} {{ s.startswith(('x', 'H')) }} {{ s.endswith('World') }} {{ s.startswith('ello', 1) }} {{ s.endswith('') }} {{ s.startswith('') }} {{ 'ab'.startswith('b', 1, 2) }}
{{ s.startswith(1) }}
{{ s.find('o') }} {{ s.rfind('o') }} {{ s.find('zz') }} {{ u.find('字') }} {{ s.find('o', 5) }} {{ s.index('W') }} {{ s.rindex('l') }} {{ s.count('l') }} {{ 'aaaa'.count('aa') }} {{ 'abc'.count('') }} {{ s.find('H', 1) }} {{ u.find('ß', -8) }}
{{ s.index('zz') }}
{{ ', '.join(['a', 'b']) }} {{ ''.join([]) }} {{ '-'.join('abc') }} {{ ','.join({'x': 1, 'y': 2}) }}
{{ ','.join([1]) }}
{{ 'ab12'.isalnum() }} {{ 'ab'.isalpha() }} {{ '12'.isdigit() }} {{ ''.isdigit() }} {{ ' \n'.isspace() }} {{ 'AB1'.isupper() }} {{ 'ab1'.islower() }} {{ '1'.isupper() }} {{ 'äb'.isalpha() }} {{ 'a b'.isalpha() }} {{ '漢'.isalnum() }} {{ 'a'.isascii() }} {{ 'ä'.isascii() }} {{ '٣'.isdigit() }} {{ '²'.isdigit() }} {{ '²'.isdecimal() }} {{ '12'.isdecimal() }}
{{ 'ab'.center(7) }}|{{ 'ab'.center(6, '*') }}|{{ 'abc'.center(6) }}|{{ 'ab'.ljust(5, '.') }}|{{ 'ab'.rjust(5) }}|{{ '-5'.zfill(5) }}|{{ '5'.zfill(3) }}|{{ 'abc'.rjust(2) }}
{{ 'ab'|center(7) }}|{{ 'ab'|center }}|
{{ 'TestHook'.removeprefix('Test') }} {{ 'MiscTests'.removesuffix('Tests') }} {{ 'abc'.removeprefix('x') }}
{{ '{} {}'.format(1, 'a') }} {{ '{1} {0}'.format(1, 'a') }} {{ '{a} {b}'.format(a=1, b=none) }} {{ '{{}}'.format() }} {{ '{:>5}|{:<5}|{:^5}|{:*^7}'.format('a', 'b', 'c', 'd') }} {{ '{:05d}|{:+d}|{:x}|{:X}|{:#x}|{:b}|{:o}|{:,}'.format(42, 42, 255, 255, 255, 5, 8, 1234567) }} {{ '{:.2f}|{:8.3f}|{:e}|{:g}|{:%}|{:.1%}'.format(3.14159, 2.5, 12345.678, 0.00001, 0.5, 0.123) }} {{ '{0.x} {0[y]}'.format({'x': 1, 'y': 2}) }} {{ '{0[1]}'.format([1, 2]) }} {{ '{!r} {!s}'.format('a', 'b') }} {{ '{:.2}'.format('abc') }} {{ '{}'.format(missing) }} {{ '{}'.format([1]) }} {{ '{:5}|{:<5}'.format(3, 4) }}
{{ '{} {}'.format(1) }}
{{ '{'.format(1) }}
{{ '}'.format(1) }}
{{ '{:d}'.format('a') }}
{{ '{} {0}'.format(1) }}
{{ '%s %d %5.2f|%-5s|%5s|%05d|%x|%r|%%|%c|%+d|%i' % ('a', 3, 2.5, 'b', 'c', 42, 255, 'q', 'z', 5, 6) }} {{ '%s' % 5 }} {{ '%s' % [1, 2] }} {{ '%(a)s %(b)d' % {'a': 1, 'b': 2} }} {{ '%s' % (none,) }} {{ '%.2s' % 'abc' }} {{ '%e %g %G' % (1234.5, 0.00001, 1e20) }} {{ '%#x %o' % (255, 8) }} {{ '%5d|%-5d|' % (3, 4) }} {{ '%*d' % (5, 3) }}
{{ '%s %s' % 1 }}
{{ '%s' % (1, 2) }}
{{ '%d' % 'a' }}
{{ '%z' % 1 }}
{{ '%s-%s'|format('a', 1) }} {{ '%(x)s'|format(x=5) }}
{{ s|length }} {{ u|length }} {{ xs|count }} {{ d|length }} {{ missing|length }} {{ ''|length }}
{{ 5|length }}
{{ none|length }}
{{ missing|default('x') }} {{ none|default('x') }} {{ none|default('x', true) }} {{ ''|d('y', true) }} {{ missing|d }}| {{ 0|default(5, boolean=true) }} {{ d.zz|default(d.b) }}
{{ xs|first }} {{ xs|last }} {{ s|first }} {{ s|last }} {{ empty|first }} {{ empty|last }} {{ d|first }} {{ d.items()|first }} {{ d|last }}
{{ xs|map('string')|last }}
{{ xs|sort }} {{ xs|sort(reverse=true) }} {{ mixed|sort }} {{ mixed|sort(case_sensitive=true) }} {{ msgs|sort(attribute='n')|map(attribute='n')|list }} {{ msgs|sort(attribute='role,n')|map(attribute='n')|list }} {{ 'bca'|sort }} {{ mixed|sort(reverse=true) }}
{{ [1, 'a']|sort }}
{{ [none, 1]|sort }}
{{ d|dictsort }} {{ d|dictsort(true) }} {{ {'b': 1, 'a': 2}|dictsort(by='value') }} {{ {'b': 1, 'a': 2}|dictsort(reverse=true) }}
{{ xs|dictsort }}
{{ xs|reverse|list }} {{ s|reverse }} {{ u|reverse }} {{ d|reverse|list }} {{ (1, 2)|reverse|list }}
{{ ['a', 'B', 'b', 'A', 'c']|unique|list }} {{ [1, 2, 1, 1.0, true]|unique|list }} {{ msgs|unique(attribute='role')|map(attribute='n')|list }} {{ ['a', 'A']|unique(true)|list }}
{{ xs|min }} {{ xs|max }} {{ mixed|min }} {{ mixed|max }} {{ empty|min }} {{ msgs|max(attribute='n') }}
{{ xs|sum }} {{ xs|sum(start=10) }} {{ msgs|sum(attribute='n') }} {{ empty|sum }} {{ [0.1, 0.2]|sum }}
{{ xs|join }} {{ xs|join(', ') }} {{ msgs|join(', ', attribute='role') }} {{ 'abc'|join('-') }} {{ empty|join('x') }} {{ [none, true, 1.0, missing]|join('|') }} {{ d|join(',') }}
{{ 5|join }}
{{ xs|list }} {{ 'ab'|list }} {{ missing|list }} {{ range(3)|list }} {{ (1, 2)|list }}
{{ none|list }}
{{ xs|map('string')|list }} {{ mixed|map('upper')|join }} {{ msgs|map(attribute='extra.k')|list }} {{ msgs|map(attribute='zz', default='-')|list }} {{ [[1, 2], [3]]|map('first')|list }} {{ ['a,b']|map('replace', ',', ';')|list }} {{ [[1, 2]]|map(attribute=0)|list }} {{ none|map('upper')|list }} {{ msgs|map(attribute='tags.1')|list }}
{{ xs|map|list }}
{{ xs|map('nofilter')|list }}
{{ [1, 2, 3, 4]|select('odd')|list }} {{ [0, 1, '', 'a', none]|select|list }} {{ [1, 2, 3]|reject('equalto', 2)|list }} {{ [1, 2, 3]|select('>', 1)|list }} {{ [1, 2]|select('in', [2, 3])|list }} {{ none|select|list }} {{ [1, 2]|reject('greaterthan', 1)|list }} {{ ['a', 1]|select('string')|list }}
{{ msgs|selectattr('role', 'equalto', 'user')|list|length }} {{ msgs|selectattr('content')|map(attribute='content')|list }} {{ msgs|rejectattr('content')|map(attribute='n')|list }} {{ msgs|selectattr('extra', 'defined')|map(attribute='n')|list }} {{ msgs|selectattr('extra.k', 'eq', 'v')|map(attribute='n')|list }} {{ msgs|rejectattr('role', 'in', ['user'])|map(attribute='n')|list }}
{{ msgs|selectattr('role', 'nope')|list }}
{{ msgs|selectattr('role')|length }}
{{ xs|select('odd')|tojson }}
{{ xs|select('odd')|first }} {% set g = xs|select('odd') %}{{ g|list }}{{ g|list }}
{% set g = [1, 2, 3]|map('string') %}{{ g|first }}{{ g|list }}
{{ msgs|groupby('role') }}
{% for role, ms in msgs|groupby('role') %}{{ role }}:{{ ms|length }} {% endfor %}{% for g in msgs|groupby('role') %}{{ g.grouper }}={{ g.list|length }};{% endfor %}{{ ['a', 'A', 'b']|groupby(0)|length }}{{ msgs|groupby('zz', default='q')|length }}
{{ [1, 2, 3, 4, 5]|batch(2)|list }} {{ [1, 2, 3]|batch(2, 'x')|list }} {{ [1, 2, 3, 4, 5]|slice(3)|list }} {{ [1, 2, 3, 4]|slice(3, 'x')|list }}
{{ '42'|int }} {{ ' 42 '|int }} {{ '4_2'|int }} {{ '4.7'|int }} {{ 'x'|int }} {{ 'x'|int(-1) }} {{ '0x1f'|int(base=16) }} {{ '1f'|int(0, 16) }} {{ 3.9|int }} {{ -3.9|int }} {{ true|int }} {{ none|int }} {{ '-5'|int }} {{ ''|int }} {{ '1e3'|int }} {{ [1]|int(7) }} {{ '0b11'|int(base=2) }} {{ '0b11'|int(base=0) }}
{{ missing|int }}
{{ '4.5'|float }} {{ 'x'|float }} {{ 'x'|float(1.5) }} {{ 3|float }} {{ '1e3'|float }} {{ none|float }} {{ 'inf'|float }} {{ 'nan'|float }} {{ '-Infinity'|float }} {{ ' 1_0.5 '|float }}
{{ 3.7|round }} {{ 2.5|round }} {{ 3.5|round }} {{ -2.5|round }} {{ 3.14159|round(2) }} {{ 3.2|round(0, 'ceil') }} {{ 3.7|round(method='floor') }} {{ 3.14159|round(3, 'ceil') }} {{ 5|round }} {{ 2.675|round(2) }} {{ 1234.5|round(-2) }} {{ 0.5|round }} {{ 5|round(1, 'floor') }}
{{ 'a'|round }}
{{ -5|abs }} {{ -2.5|abs }} {{ true|abs }} {{ (-5)|abs }}
{{ 5|string }} {{ 5|string + 'a' }} {{ none|string }} {{ [1]|string }} {{ s|string }}
{{ 'a\nb\n\nc'|indent }}|{{ 'a\nb'|indent(2, true) }}|{{ 'a\n\nb'|indent(2, blank=true) }}|{{ 'a\nb'|indent('> ') }}|{{ ''|indent }}|{{ 'a\n'|indent }}|{{ ''|indent(2, true) }}|{{ '\na'|indent(first=true) }}
{{ 5|indent }}
{{ 'foo bar baz qux'|truncate(9) }} {{ 'foo bar baz qux'|truncate(9, true) }} {{ 'foo bar baz qux'|truncate(11) }} {{ 'foo bar baz qux'|truncate(11, false, '...', 0) }} {{ 'äöü äöü äöü'|truncate(7, leeway=0) }} {{ 'abc'|truncate }}
{{ 'a b_c d-e'|wordcount }} {{ ''|wordcount }} {{ u|wordcount }}
{{ html|escape }} {{ html|e }} {{ html|safe }} {{ html|safe|escape }} {{ html|forceescape }} {{ (html|e)|forceescape }}
{{ (html|safe) + '<' }} {{ '<' + (html|safe) }} {{ (html|safe) ~ '<' }} {{ html|e is escaped }} {{ html is escaped }} {{ html|safe }} {{ [html|safe] }} {{ ('<'|safe)|tojson }} {{ ['<'|safe, '>']|join }}
{{ d|tojson }} {{ d|tojson(indent=2) }} {{ d|tojson(sort_keys=true) }} {{ d|tojson(separators=(',', ':')) }} {{ d|tojson(indent='\t') }} {{ []|tojson }} {{ {}|tojson(indent=1) }} {{ [[]]|tojson(indent=1) }} {{ d|tojson(indent=0) }} {{ none|tojson }} {{ t|tojson }} {{ s|tojson }} {{ (1, 2)|tojson }} {{ {1: 2, none: 3, true: 4, 1.5: 5}|tojson }} {{ msgs|tojson(indent=4, ensure_ascii=false) }} {{ d|tojson(indent=2, separators=(',', ': ')) }} {{ u|tojson(true) }}
{{ missing|tojson }}
{{ [missing]|tojson }}
{{ namespace()|tojson }}
{{ {(1, 2): 3}|tojson }}
{{ d.items()|tojson }}
{{ d|items|list }} {{ missing|items|list }}
{{ xs|items|list }}
{{ d|attr('b') }} {{ d|attr('get') is callable }} {{ s|attr('upper')() }}
{{ 5 is odd }} {{ 4 is even }} {{ 9 is divisibleby(3) }} {{ 9 is divisibleby 2 }} {{ n is defined }} {{ missing is defined }} {{ missing is undefined }} {{ missing is not defined }} {{ nil is none }} {{ nil is not none }} {{ t is true }} {{ no is false }} {{ 1 is true }} {{ t is boolean }} {{ n is integer }} {{ t is integer }} {{ f is float }} {{ n is number }} {{ t is number }} {{ s is number }} {{ s is string }} {{ xs is string }} {{ d is mapping }} {{ xs is mapping }}
{{ xs is iterable }} {{ s is iterable }} {{ n is iterable }} {{ d is iterable }} {{ missing is iterable }} {{ xs is sequence }} {{ s is sequence }} {{ d is sequence }} {{ n is sequence }} {{ missing is sequence }} {{ (1,) is sequence }} {{ d.keys() is sequence }} {{ d.keys() is iterable }} {{ range(2) is sequence }} {{ xs|map('string') is iterable }} {{ xs|map('string') is sequence }} {{ none is iterable }}
{{ 'a' is eq 'a' }} {{ 1 is equalto 1.0 }} {{ 1 is ne 2 }} {{ 1 is lt 2 }} {{ 1 is le 1 }} {{ 2 is gt 1 }} {{ 2 is ge 3 }} {{ 1 is lessthan 2 }} {{ 1 is greaterthan 2 }} {{ 1 is in [1] }} {{ 'a' is in 'abc' }} {{ none is sameas none }} {{ 1 is sameas true }} {{ xs is sameas xs }} {{ 'ab' is lower }} {{ 'AB' is upper }} {{ 'trim' is filter }} {{ 'zz' is filter }} {{ 'odd' is test }} {{ range is callable }} {{ s is callable }}
{{ n is foo }}
{{ n is odd is true }}
{{ s|nofilter }}
{% if no %}{{ s|nofilter }}{% endif %}x
{{ (s|nofilter) if no else 'y' }}
{% if t %}{{ s|nofilter }}{% endif %}
{% for x in empty %}{{ x|nofilter }}{% endfor %}
{{ not n is odd }} {{ n is odd and t }} {{ n is odd if t }} {{ 'a' is string ~ 'b' }} {{ s|upper is upper }} {{ 1 == 1 is true }}
{% if n > 5 %}big{% elif n > 3 %}mid{% else %}small{% endif %} {% if missing %}a{% elif nil %}b{% else %}c{% endif %} {% if t: %}colon{% endif %}
{% for x in xs %}{{ x }}{% if not loop.last %},{% endif %}{% else %}none{% endfor %} {% for x in empty %}{{ x }}{% else %}none{% endfor %}
{% for x in xs %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.depth }}{{ loop.depth0 }}{{ loop.cycle('a', 'b') }};{% endfor %}
{% for x in [1, 1, 2, 2, 1] %}{{ loop.changed(x) }} {% endfor %}
{% for x in xs if x > 1 %}{{ x }}{{ loop.index }}{{ loop.last }}{{ loop.length }};{% endfor %} {% for x in xs if x > 9 %}x{% else %}no{% endfor %}
{% set ns = namespace(c=0) %}{% for x in [1, 2, 3, 4] if ns.c < 2 %}{% set ns.c = ns.c + 1 %}{{ x }}{% endfor %}
{% set ns = namespace(c=0) %}{% for x in [1, 2, 3, 4] if ns.c < 2 %}{% set ns.c = ns.c + 1 %}{{ x }}{{ loop.last }}{% endfor %}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %} {% for k in d %}{{ k }}{% endfor %} {% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %} {% for c in 'äb' %}[{{ c }}]{% endfor %} {% for x in missing %}x{% endfor %} {% for i in range(3) %}{{ i }}{% endfor %} {% for x in 1, 2 %}{{ x }}{% endfor %}
{% for a, b in [(1, 2, 3)] %}{% endfor %}
{% for a, b in [1] %}{% endfor %}
{% for x in none %}{% endfor %}
{% for x in 5 %}{% endfor %}
{% for x in xs %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %} {% for x in xs %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% endfor %} {% for x in xs %}{% for y in xs %}{% if y == 1 %}{% break %}{% endif %}{{ x }}{{ y }} {% endfor %}{% endfor %}
{% break %}
{% for x in xs %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}
{% for n in tree recursive %}{{ n.n }}@{{ loop.depth }}{% if n.c %}({{ loop(n.c) }}){% endif %}{% if not loop.last %},{% endif %}{% endfor %}
{% for x in xs %}{{ loop(xs) }}{% endfor %}
{% for x in xs %}{% set outer = loop %}{% for y in [1, 2] %}{{ outer.index }}{{ loop.index }} {% endfor %}{% endfor %}
{{ loop }}{% for x in xs %}{{ loop }}{% endfor %}
{% set x = 1 %}{% for i in xs %}{{ x }}{% set x = x + i %}{{ x }};{% endfor %}{{ x }}
{% set x = 1 %}{% if t %}{% set x = 2 %}{% endif %}{{ x }} {% for i in [1] %}{% set y = 5 %}{% endfor %}{{ y }} {% for n in xs %}{% endfor %}{{ n }}
{% set a, b = 1, 2 %}{{ a }}{{ b }} {% set a, b = b, a %}{{ a }}{{ b }} {% set t2 = 1, 2 %}{{ t2 }} {% set (a, b) = [3, 4] %}{{ a }}{{ b }}
{% set a, b = 1 %}
{% set a, b = [1, 2, 3] %}
{% set x %}a{{ n }}b{% endset %}{{ x }}|{{ x|length }} {% set x | upper %}abc{% endset %}{{ x }} {% set x|replace('a', 'b')|upper %}aaa{% endset %}{{ x }} {% set q = 1 %}{% set x %}{% set q = 2 %}{{ q }}{% endset %}{{ q }}{{ x }}
{% set ns = namespace(a=1, b='x') %}{{ ns.a }}{{ ns['b'] }}{{ ns.zz }}{% set ns.a = 5 %}{% set ns.new = [1] %}{{ ns.a }}{{ ns.new }}{{ ns }} {% set ns2 = namespace({'k': 1}, z=2) %}{{ ns2.k }}{{ ns2.z }} {{ ns is mapping }} {% set ns.a, ns.b = 8, 9 %}{{ ns.a }}{{ ns.b }}
{% set n.a = 1 %}
{% set missing.a = 1 %}
{% set none = 1 %}
{% set 5 = 1 %}
{% set a.b.c = 1 %}
{% macro m(a, b=2, c=a) %}{{ a }}{{ b }}{{ c }}|{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(c=5, a=1) }}{{ m() }}{{ m(*[1, 2]) }}{{ m(**{'b': 7}) }}{{ m }}
{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, x=3) }}{{ m() }}
{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}
{% macro m(a) %}{% endmacro %}{{ m(b=1) }}
{% macro m(a) %}{% endmacro %}{{ m(1, a=2) }}
{% macro m(a=1, b) %}{% endmacro %}
{% macro m(a) %}{{ a }}{% if a > 0 %}{{ m(a - 1) }}{% endif %}{% endmacro %}{{ m(3) }}
{% macro m() %}{{ x }}{% endmacro %}{{ m() }}{% set x = 5 %}{{ m() }} {% for x in [7] %}{{ m() }}{{ x }}{% endfor %}
{% macro m() %}{% set x = 9 %}{{ x }}{% endmacro %}{% set x = 1 %}{{ m() }}{{ x }} {% for i in [1, 2] %}{% macro q() %}<{{ i }}>{% endmacro %}{{ q() }}{% endfor %}
{% macro m(x) %}[{{ caller(x) }}]{% endmacro %}{% call(y) m(5) %}{{ y }}{{ n }}{% endcall %} {% macro p() %}{{ caller() }}{% endmacro %}{% call p() %}body{% endcall %}
{% macro p() %}{{ caller is defined }}{{ caller }}{% endmacro %}{{ p() }}
{% macro p() %}x{% endmacro %}{% call p() %}y{% endcall %}
{% macro p() %}{{ caller() }}{% endmacro %}{{ p() }}
{% macro f(x) %}{{ x }}{% endmacro %}{{ f('a') + 'b' }} {{ f('a')|upper }} {% set r = f([1]) %}{{ r|length }} {{ f(f(1)) }} {{ (f('x') * 2)|length }}
{% filter upper %}abc{{ s }}{% endfilter %} {% filter replace('a', 'b')|upper %}aaa{% endfilter %}
{% with a = 1, b = n %}{{ a }}{{ b }}{% endwith %}{{ a }} {% with %}{% set q = 1 %}{{ q }}{% endwith %}{{ q }} {% set a = 1 %}{% with a = 2, b = a %}{{ a }}{{ b }}{% endwith %}
{% generation %}x{{ s }}{% endgeneration %} {% for i in [1, 2] %}{% generation %}{{ i }}{{ loop.index }}{% set i = 9 %}{% endgeneration %}{{ i }}{% endfor %}
{% print s %} {% print n + 1 %}
{% raw %}{{ x }} {% if %}{# #}{% endraw %}|{%- raw -%}  a  {%- endraw -%}  b
{% raw %}
{# open
{% if t %}
{{ s
{{ }}
{% %}
{% endif %}
{% foo %}
{% include 'x' %}
{% import 'x' as y %}
{% extends 'x' %}
{{ (1 }}
{{ [1, 2 }}
{{ 1) }}
{{ {'a' 1} }}
{{ 'abc }}
{{ a b }}
{{ 1.x }}
{{ x. }}
{{ @ }}
{{ f(a=1, 2) }}
{{ range(5)|list }} {{ range(1, 4)|list }} {{ range(5, 0, -2)|list }} {{ range(0)|list }} {{ range(3) }} {{ range(1, 9, 2) }} {{ range(3)[1] }} {{ range(3)|length }} {{ 2 in range(3) }} {{ range(-1)|list }} {{ range(3)[::-1]|list }} {{ range(3) == range(3) }}
{{ range(100001) }}
{{ range(1.5) }}
{{ range(1, 2, 0) }}
{{ range('a') }}
{{ dict(a=1, b=2) }} {{ dict([('x', 1)], y=2) }} {{ dict({'q': 1}) }} {{ dict() }}
{{ raise_exception('no: ' ~ n) }}
{{ strftime_now('%Y-%m-%d %H:%M:%S %j %a %b %B %d') }} {{ strftime_now('%%|%f|%z|%-d') }} {{ strftime_now('') }}
{{ s() }}
{{ n() }}
{{ missing() }}
{{ d.b() }}
{{ s.nomethod() }}
{{ d.nokey() }}
{{ missing.upper() }}
{{ s.upper(1) }}
{{ s.split(1, 2, 3) }}
{{ s|upper(1) }}
{{ s|replace('a') }}
{{ {'a': {'b': [1, {'c': 'deep'}]}}.a.b[1].c }} {{ msgs[1].extra.k }} {{ msgs[-1]['role'] }} {{ msgs[0].tags|join('+') }} {{ [[1, 2], [3]][0][1] }} {{ 'abc'[1].upper() }} {{ ('a', 'b')[0] }}
{{ {'a': 1, 'a': 2} }} {{ {}['a'] }} {{ [][0] }} {{ {1: 'x'}[1.0] }} {{ {none: 1}[none] }}
{{ {[1]: 2} }}
{{ d[[1]] }} {{ xs[none] }} {{ xs[1.0] }} {{ xs[true] }}
{{ 1 if missing is defined and missing.x else 2 }} {{ (missing or {}).x }} {{ (d.zz or []) | length }} {{ d.get('zz', {}).get('q') }}
{{ s if s is string else s|tojson }} {{ (msgs|first).content ~ '!' }} {{ -n|abs }} {{ -n.zz is defined }}
{{ 3 - 1 - 1 }} {{ 2 * 3 % 4 }} {{ 'a' ~ 1 + 2 }} {{ 1 ~ 2 * 3 }} {{ 'x' in 'a' ~ 'x' }} {{ 1 + 1 == 2 and not no }} {{ not 1 == 2 }} {{ n in [7] == true }}
{{- s -}}   {{- s }}  {{ s -}}   x
{%- if t -%}   a   {%- endif -%}   b
  {% if t %}  
  kept
  {% endif %}  
end
{% if t %}x{% endif %}

after blank
a {%+ if t %} b {%+ endif %} c
  {%+ if t +%}
x
  {% endif +%}
y
  {# c #}
z
a{% if t %}
b
{% endif %}c
	 {%- if t %} x {% endif -%} 	
 y
{{ "a" }}
{{ "b" }}


{{ [
  1,
  2,
] }}{{ {
  'a': 1,
} }}
{% set x = [
 'a', 'b'
] -%}
{{ x }}
{{ 'é' }}{{ 'é'|length }}{% set ü = 3 %}{{ ü }}
{{ "{{ not }}" }}{{ '%}' }}{{ "#}" }}
{{ '}}' }}{{ {'a': {'b': 1}}['a']['b'] }}{{ {'a':{}} }}
{#{{ x }}#}{#- a -#}{# b +#}
{{ none }}{{ None }}{{ true }}{{ True }}{{ false }}{{ False }}
{{ true + 1 }} {{ true == 1 }} {{ [true, 1]|unique|list }} {{ false is sameas 0 }} {{ 1.0 is integer }} {{ 0.1 + 0.2 }} {{ 1e400 }} {{ -1e400 }} {{ 2 ** 0.5 }} {{ 10 // 3.0 }} {{ 1e2|int }} {{ 5 % 2.5 }}
{{ 9223372036854775807 - 1 }} {{ -9223372036854775807 }} {{ 4611686018427387904 * 1 }} {{ 3 ** 39 }}
"""


def cases():
    """The lines of CASES, and those that need newlines within."""
    return [line for line in CASES.split("\n") if line] + MULTILINE


MULTILINE = [
    "  {% if t %}  \n  kept\n  {% endif %}  \nend\n",
    "{% if t %}x{% endif %}\n\nafter blank\n\n",
    "a\n  {%+ if t +%}\nx\n  {% endif +%}\ny\n  {# c #}\nz",
    "a{% if t %}\nb\n{% endif %}c\n\t {%- if t %} x {% endif -%} \t\n y",
    '{{ "a" }}\n{{ "b" }}\n\n\n{{ [\n  1,\n  2,\n] }}{{ {\n  \'a\': 1,\n} }}',
    "{% set x = [\n 'a', 'b'\n] -%}\n  {{ x }}\n",
    "a\r\nb\rc\n{% if t %}\r\nd{% endif %}\r\n",
    "{% for x in xs %}\n    {{ x }}\n{% endfor %}\n",
    "{%- for x in xs -%}\n    {{ x }}\n{%- endfor %}\n",
    "  {% raw %}\n  {{ x }}\n  {% endraw %}\n  z",
    "x  {%- raw %}\n  y\n  {%- endraw %}\n  z",
    "{% raw -%}\n  a\n{% endraw %}\nb",
    "{# a\n b #}\nc\n  {#- d -#}  \n  e",
    "{{ x }}\n  {% set y = 1 %}\n{{ y }}",
    "\n\n{% if t %}a{% endif %}\n\n",
    "{{ 'a\nb' }}{{ 'a\\\nb' }}",
    "{% macro m() %}\n  x\n  {% if t %}\n  y\n  {% endif %}\n{% endmacro %}\n[{{ m() }}]",
    "",
    "\n",
    "\n\n",
    " {{ s }} \n",
]


def main():
    env, lines = environment(), []
    for template in cases():
        case = {"t": template}
        try:
            case["ok"] = env.from_string(template).render(**VARS)
        except Exception:  # a template may make Python raise anything
            case["refused"] = True
        lines.append(json.dumps(case, ensure_ascii=False))
    with open("tests/golden/jinja_cases.jsonl", "w", encoding="utf-8") as f:
        f.write(json.dumps(VARS, ensure_ascii=False) + "\n" + "\n".join(lines) + "\n")
    print(len(lines), "cases")


if __name__ == "__main__":
    main()
