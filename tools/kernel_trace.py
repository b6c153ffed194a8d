"""Follows one warp through a kernel's machine code, for tools/kernel_cost: which instructions it issues, and which banks
of shared memory its lanes touch.

Integers, addresses, predicates and what lies in the constant bank are computed, for each of the 32 lanes; so are numbers
that the kernel wrote to shared memory itself. Floating-point results and what is read from global memory are not known,
but for what the launch names. A branch is taken as the lanes that are on decide, by the first of them where they differ;
lanes that go another way are off until the code joins again (BSSY, BSYNC). Where a branch depends on a number that is not
known, it goes around calls (the slow paths of divisions and roots) and else straight on; such branches are counted in
`assumed`.
"""
import collections
import functools
import re
import struct

LANES = 32
WORD = 0xFFFFFFFF
MOST_INSTRUCTIONS = 400_000
WATCHED = 8  # times that the wavefronts of an instruction are counted


class NotDerived(Exception):
    """The code goes where it cannot be followed."""


Instruction = collections.namedtuple('Instruction', 'address guard name operands targets')


def split_operands(text):
    return [part.strip() for part in text.split(', ')] if text.strip() else []


INSTRUCTION = re.compile(r'\s+/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P(?:\d+|T))\s+)?([A-Z][A-Z0-9_.]*)\s*(.*)')
TARGETS = re.compile(r'\(\*"BRANCH_TARGETS ([^"]*)"\*\)')


def parse(lines):
    """(instructions, {label: address}) of a kernel in nvdisasm's form."""
    instructions, labels, waiting = [], {}, []
    for line in lines:
        if m := INSTRUCTION.match(line):
            address, guard, name, rest = int(m[1], 16), m[2], m[3], m[4]
            for label in waiting:
                labels[label] = address
            waiting = []
            table = TARGETS.search(rest)
            if table:
                rest = rest[:table.start()]
            targets = table[1].split(',') if table else []
            rest = rest.rstrip()
            if rest.endswith(';'):
                rest = rest[:-1]
            instructions.append(Instruction(address, guard, name, split_operands(rest), targets))
        elif m := re.match(r'([.$\w]+):\s*$', line):
            waiting.append(m[1])
    return instructions, labels


# ---- numbers: an int that all lanes have, a tuple of a number for each lane (None: not known), or None ----------------


def lift(function, *values):
    varies = False
    for v in values:
        if v is None:
            return None
        if type(v) is tuple:
            varies = True
    if not varies:
        return function(*values)
    rows = zip(*(v if isinstance(v, tuple) else (v,) * LANES for v in values))
    return together(tuple(None if None in row else function(*row) for row in rows))


def together(lanes):
    first = lanes[0]
    return first if all(v == first for v in lanes) else lanes


def lanes_of(value):
    return value if isinstance(value, tuple) else (value,) * LANES


def chosen(mask, yes, no):
    """yes where mask is 1, no where it is 0."""
    if mask == 1 or yes == no:
        return yes
    if mask == 0:
        return no
    if mask is None:
        return None
    return together(tuple(y if m == 1 else n if m == 0 else None
                          for m, y, n in zip(mask, lanes_of(yes), lanes_of(no))))


def signed(x):
    return x - (1 << 32) if x & 0x80000000 else x


def float_of(bits):
    return struct.unpack('<f', struct.pack('<I', bits & WORD))[0]


def double_of(bits):
    return struct.unpack('<d', struct.pack('<Q', bits))[0]


def bits_of(number):
    try:
        return struct.unpack('<I', struct.pack('<f', number))[0]
    except OverflowError:
        return 0x7F800000 if number > 0 else 0xFF800000


def reciprocal(bits):
    x = float_of(bits)
    return bits_of(1 / x) if x else 0x7F800000


def to_integer(bits):
    x = float_of(bits)
    if x != x:
        return 0
    return max(0, min(WORD, int(x))) if x > -2e9 and x < 5e9 else WORD


COMPARE = {'EQ': lambda a, b: a == b, 'NE': lambda a, b: a != b, 'LT': lambda a, b: a < b, 'LE': lambda a, b: a <= b,
           'GT': lambda a, b: a > b, 'GE': lambda a, b: a >= b}


def logic(table, a, b, c, bits=WORD):
    result = 0
    for k in range(8):
        if table >> k & 1:
            result |= (a if k & 4 else ~a) & (b if k & 2 else ~b) & (c if k & 1 else ~c)
    return result & bits


@functools.lru_cache(maxsize=None)
def needed(table):
    """The operands, of three, on which the result of a table of truth depends."""
    return [k for k, bit in enumerate((4, 2, 1)) if any((table >> m & 1) != (table >> (m ^ bit) & 1) for m in range(8))]


def permute(a, selector, b):
    source = (b & WORD) << 32 | (a & WORD)
    result = 0
    for k in range(4):
        nibble = selector >> 4 * k & 15
        byte = source >> 8 * (nibble & 7) & 255
        if nibble & 8:
            byte = 255 if byte & 128 else 0
        result |= byte << 8 * k
    return result


PREDICATE = re.compile(r'!?U?P(\d+|T)$')
REGISTER = re.compile(r'([-~!|]*)(U?R(?:\d+|Z))((?:\.\w+)*)\|?((?:\.\w+)*)$')
CONSTANT = re.compile(r'([-~|]*)cx?\[(\w+)\]\[([^\]]*)\]((?:\.\w+)*)\|?$')
NUMBER = re.compile(r'(-?)(0x[0-9a-f]+|\d+)$')
ADDRESS = re.compile(r'(?:desc\[UR\d+\])?\[([^\]]*)\]$')


@functools.lru_cache(maxsize=None)
def words_of(name):
    """The names of a register and of the three behind it."""
    if name.endswith('Z'):
        return (None,) * 4
    prefix = 'UR' if name[0] == 'U' else 'R'
    return tuple(f'{prefix}{int(name[len(prefix):]) + k}' for k in range(4))


@functools.lru_cache(maxsize=None)
def operand(text):
    """(kind, signs, what) of an operand that is one 32-bit number, or of its first word: a register's words, a number, a
    place in bank 0, or a predicate."""
    if m := REGISTER.match(text):
        return ('unknown', '', None) if '.H' in m[3] or '|' in m[1] else ('register', m[1], words_of(m[2]))
    if m := NUMBER.match(text):
        return 'number', '', -int(m[2], 0) if m[1] else int(m[2], 0)
    if m := CONSTANT.match(text):
        bank_0 = re.fullmatch(r'(0x)?0+', m[2]) is not None
        return ('constant', m[1], m[3]) if bank_0 and '|' not in m[1] else ('unknown', '', None)
    return ('predicate', '', None) if PREDICATE.match(text) else ('unknown', '', None)


@functools.lru_cache(maxsize=None)
def sum_of(text):
    """The terms inside of brackets: (number, words of a register, whether it is a pair, factor)."""
    terms = []
    for part in text.split('+'):
        if m := NUMBER.match(part):
            terms.append((-int(m[2], 0) if m[1] else int(m[2], 0), None, False, 1))
        elif m := re.match(r'(U?R(?:\d+|Z))((?:\.\w+)*)$', part):
            scale = re.search(r'\.X(\d+)', m[2])
            terms.append((0, words_of(m[1]), '.64' in m[2], int(scale[1]) if scale else 1))
        else:
            return None
    return tuple(terms)


@functools.lru_cache(maxsize=None)
def in_brackets(text):
    m = ADDRESS.match(text)
    return m[1] if m else None


@functools.lru_cache(maxsize=None)
def is_predicate(text):
    return PREDICATE.match(text) is not None


class Constants:
    """Bank 0: the launch's shape and parameters."""
    # Where the parameters, the block's threads and the grid's blocks lie.
    PLACES = {'sm_80': (0x160, 0x0, 0xC), 'sm_90': (0x210, 0x0, 0xC), 'sm_90a': (0x210, 0x0, 0xC),
              'sm_100': (0x380, 0x360, 0x370)}

    def __init__(self, architecture, parameters, threads, blocks):
        if architecture not in self.PLACES:
            raise NotDerived(f'where {architecture} has its parameters is not known')
        place, block, grid = self.PLACES[architecture]
        self.bytes = {}
        for start, data in ((block, struct.pack('<III', threads, 1, 1)), (grid, struct.pack('<III', blocks, 1, 1)),
                            (place, parameters)):
            self.bytes.update((start + k, byte) for k, byte in enumerate(data))

    def read(self, offset, count):
        found = [self.bytes.get(offset + k) for k in range(count)]
        return None if None in found else int.from_bytes(bytes(found), 'little')


@functools.lru_cache(maxsize=None)
def results_of(name, operands):
    """The predicates and registers that an instruction writes."""
    base = name.split('.')[0]
    k = 0
    while k < len(operands) and is_predicate(operands[k]) and (k < 2 or not base.endswith('SETP')):
        k += 1
    predicates = [text for text in operands[:k] if text[0] != '!' and not text.endswith('T')]
    if k == len(operands) or base.endswith('SETP'):
        return predicates, []
    count = 4 if base == 'HMMA' or '.128' in name else 2 if (
        base[0] == 'D' or '.F64' in name or '.64' in name or base in ('FFMA2', 'FADD2', 'FMUL2')) else 1
    kind, _, words = operand(operands[k])
    return predicates, [word for word in words[:count] if word] if kind == 'register' else []


class Trace:
    """One warp, the first of the first block. `executed` counts instructions by their index; `wavefronts` of shared memory
    by index, of its first times, where addresses are known; `unmodelled` names whose results are taken as not known."""

    def __init__(self, instructions, labels, constants, memory=()):
        self.instructions, self.labels, self.constants = instructions, labels, constants
        self.index = {i.address: k for k, i in enumerate(instructions)}
        self.memory = memory  # (address, bytes) of global memory
        self.registers, self.predicates, self.shared = {}, {}, {}
        self.saved, self.tables = {}, {}
        self.mask = 1  # the lanes that are on
        self.executed = [0] * len(instructions)
        self.wavefronts = collections.defaultdict(lambda: [0, 0])  # index: [wavefronts, instructions]
        self.assumed, self.unmodelled = collections.Counter(), collections.Counter()
        self.decoded = [None] * len(instructions)
        self.calls = [k for k, i in enumerate(instructions) if i.name.startswith('CALL')]

    def run(self):
        at, budget = 0, MOST_INSTRUCTIONS
        while at is not None:
            if at >= len(self.instructions):
                raise NotDerived('the code runs over its end')
            budget -= 1
            if budget < 0:
                raise NotDerived(f'no end after {MOST_INSTRUCTIONS} instructions')
            self.executed[at] += 1
            instruction = self.instructions[at]
            guard = 1 if instruction.guard is None else self.predicate(instruction.guard)
            step = self.decoded[at]
            if step is None:
                step = self.decoded[at] = self.decode(instruction)
            at = step(at, instruction, guard)
        return self

    # ---- operands ----

    def predicate(self, text):
        name = text.lstrip('!')
        value = 1 if name.endswith('PT') else self.predicates.get(name)
        return lift(lambda p: 1 - p, value) if text[0] == '!' else value

    def register(self, words, offset=0):
        name = words[offset]
        return 0 if name is None else self.registers.get(name)

    def value(self, text, offset=0, inverted_is_wide=False):
        """A 32-bit operand; of a pair its word `offset`."""
        kind, signs, what = operand(text)
        if kind == 'register':
            name = what[offset]
            value = 0 if name is None else self.registers.get(name)
        elif kind == 'number':
            return what >> 32 * offset & WORD
        elif kind == 'constant':
            value = lift(lambda p: self.constants.read(p + 4 * offset, 4), self.address(what))
        else:
            return self.predicate(text) if kind == 'predicate' else None
        if not signs or value is None:
            return value
        if '~' in signs:
            return lift(lambda v: ~v & WORD, value)
        value = lift(lambda v: (~v & WORD) + 1, value)
        return value if inverted_is_wide else lift(lambda v: v & WORD, value)

    def wide(self, text):
        """A 64-bit operand."""
        if m := NUMBER.match(text):
            return (-int(m[2], 0) if m[1] else int(m[2], 0)) & (1 << 64) - 1
        negative = text.startswith('-')
        low, high = (self.value(text.lstrip('-'), k) for k in (0, 1))
        value = lift(lambda a, b: b << 32 | a, low, high)
        return lift(lambda v: -v & (1 << 64) - 1, value) if negative else value

    def address(self, text):
        """The sum inside of brackets; of a register with .64 the pair."""
        terms = sum_of(text) if text is not None else None
        if terms is None:
            return None
        total = 0
        for number, words, pair, factor in terms:
            if words is None:
                value = number
            elif pair:
                value = lift(lambda a, b: b << 32 | a, self.register(words), self.register(words, 1))
            else:
                value = self.register(words)
                if factor != 1:
                    value = lift(lambda v: v * factor, value)
            if value is None:
                return None
            total = value if total == 0 else total if value == 0 else lift(lambda a, b: a + b, total, value)
        return total

    def set(self, text, value, guard, offset=0):
        kind, _, words = operand(text)
        name = words[offset] if kind == 'register' else None
        if name is None:
            return
        on = self.on(guard)
        self.registers[name] = value if on == 1 else chosen(on, value, self.registers.get(name))
        if self.tables:
            self.tables.pop(name, None)

    def set_wide(self, text, value, guard):
        self.set(text, lift(lambda v: v & WORD, value), guard)
        self.set(text, lift(lambda v: v >> 32 & WORD, value), guard, 1)

    def set_predicate(self, text, value, guard):
        if not text.endswith('T'):
            self.predicates[text] = chosen(self.on(guard), value, self.predicates.get(text))

    def on(self, guard):
        if self.mask == 1:
            return guard
        if guard == 1:
            return self.mask
        return lift(lambda a, b: a & b, self.mask, guard)

    # ---- instructions ----

    def decode(self, instruction):
        base = instruction.name.split('.')[0]
        plain = base[1:] if base[0] == 'U' and hasattr(self, 'do_' + base[1:].lower()) else base
        handler = getattr(self, 'do_' + plain.lower(), None)
        control = getattr(self, 'go_' + base.lower(), None)
        if control:
            return control
        handler = handler or self.not_known

        def straight(at, of, guard):
            handler(of, guard)
            return at + 1
        return straight

    def not_known(self, of, guard):
        """Results are not known."""
        if guard == 0:
            return
        self.unmodelled[of.name] += 1
        predicates, registers = results_of(of.name, tuple(of.operands))
        for name in predicates:
            self.predicates[name] = None
        for name in registers:
            self.registers[name] = None

    def nothing(self, of, guard):
        pass

    do_nop = do_bar = do_warpsync = do_membar = do_errbar = do_depbar = do_cctl = do_stl = do_stg = do_st = do_red = nothing
    do_yield = do_nanosleep = do_bpt = do_endcollective = do_acqbulk = nothing

    def do_mov(self, of, guard):
        if '.64' in of.name:
            self.set_wide(of.operands[0], self.wide(of.operands[1]), guard)
        else:
            self.set(of.operands[0], self.value(of.operands[1]), guard)
    do_r2ur = do_mov

    def do_cs2r(self, of, guard):
        value = 0 if of.operands[1] == 'SRZ' else None
        self.set(of.operands[0], value, guard)
        if '.32' not in of.name:
            self.set(of.operands[0], value, guard, 1)

    def do_s2r(self, of, guard):
        known = {'SR_TID.X': tuple(range(LANES)), 'SR_LANEID': tuple(range(LANES)), 'SRZ': 0}
        zero = ('SR_TID.Y', 'SR_TID.Z', 'SR_CTAID.X', 'SR_CTAID.Y', 'SR_CTAID.Z', 'SR_CgaCtaId', 'SR_SWINHI')
        name = of.operands[1]
        self.set(of.operands[0], 0 if name in zero else known.get(name), guard)
    do_s2ur = do_s2r

    def do_ldc(self, of, guard):
        m = CONSTANT.match(of.operands[1])
        place = self.address(m[3]) if m else None
        bank = int(m[2], 0) if m and m[2].startswith('0x') else None
        used = re.match(r'U?R(?:\d+|Z)', m[3]) if m else None
        case = self.register(words_of(used[0])) if used else None
        size = 8 if '.64' in of.name else 16 if '.128' in of.name else 1 if '.U8' in of.name or '.S8' in of.name else (
            2 if '16' in of.name.split('.')[-1] else 4)
        for word in range(max(1, size // 4)):
            count = min(size, 4)
            value = lift(lambda p: self.constants.read(p + 4 * word, count), place) if bank == 0 else None
            self.set(of.operands[0], value, guard, word)
        if bank not in (0, None):  # a jump's table, which is read by the number of the case
            self.tables[of.operands[0]] = case
    do_ldcu = do_ldc

    def add(self, of, guard):
        operands = list(of.operands)
        target = operands.pop(0)
        carries = []
        while operands and is_predicate(operands[0]):
            carries.append(operands.pop(0))
        extended = '.X' in of.name
        ins = [self.predicate(operands.pop()) for _ in range(2) if operands and is_predicate(operands[-1])]
        values = [self.value(text, inverted_is_wide=not extended) for text in operands]
        total = lift(lambda *v: sum(v), *values, *(ins if extended else []))
        self.set(target, lift(lambda v: v & WORD, total), guard)
        for k, carry in enumerate(carries):
            self.set_predicate(carry, lift(lambda v: int(v >> 32 > k), total), guard)

    def do_iadd3(self, of, guard):
        if '.64' in of.name:
            self.do_iadd64(of, guard)
        else:
            self.add(of, guard)
    do_viadd = do_iadd3

    def do_iadd(self, of, guard):
        self.do_iadd3(of, guard)

    def do_iadd64(self, of, guard):
        operands = [o for o in of.operands if not is_predicate(o)]
        total = lift(lambda *v: sum(v) & (1 << 64) - 1, *(self.wide(o) for o in operands[1:]))
        self.set_wide(operands[0], total, guard)
        for text in of.operands[1:]:
            if is_predicate(text) and '!' not in text:
                self.set_predicate(text, None, guard)

    def do_imad(self, of, guard):
        operands = list(of.operands)
        target = operands.pop(0)
        carries = []
        while operands and is_predicate(operands[0]):
            carries.append(operands.pop(0))
        ins = [self.predicate(operands.pop()) for _ in range(2) if len(operands) > 3 and is_predicate(operands[-1])]
        a, b = self.value(operands[0]), self.value(operands[1])
        is_signed = '.U32' not in of.name
        if '.WIDE' in of.name:
            c = self.wide(operands[2])
            product = lift((lambda x, y: signed(x) * signed(y)) if is_signed else (lambda x, y: x * y), a, b)
            total = lift(lambda p, v: (p & (1 << 64) - 1) + v, product, c)
            self.set_wide(target, total, guard)
            for carry in carries:
                self.set_predicate(carry, lift(lambda v: int(v >> 64 > 0), total), guard)
            return
        c = self.value(operands[2]) if len(operands) > 2 else 0
        if '.HI' in of.name:
            high = lift((lambda x, y: signed(x) * signed(y) >> 32) if is_signed else (lambda x, y: x * y >> 32), a, b)
            self.set(target, lift(lambda p, v: (p + v) & WORD, high, c), guard)
            return
        product = 0 if 0 in (a, b) else lift(lambda x, y: (x * y) & WORD, a, b)
        extra = ins if '.X' in of.name else []
        self.set(target, lift(lambda *v: sum(v) & WORD, product, c, *extra), guard)

    def do_lea(self, of, guard):
        operands = list(of.operands)
        target = operands.pop(0)
        carries = []
        while operands and is_predicate(operands[0]):
            carries.append(operands.pop(0))
        carry_in = 0
        while is_predicate(operands[-1]):
            carry_in = self.predicate(operands.pop())
        if '.X' not in re.sub(r'\.SX32', '', of.name):
            carry_in = 0
        shift = self.value(operands.pop())
        if '.64' in of.name:
            total = lift(lambda x, y, s: ((x << s) + y) & (1 << 64) - 1, self.wide(operands[0]), self.wide(operands[1]),
                         shift)
            self.set_wide(target, total, guard)
            return
        a, b = self.value(operands[0]), self.value(operands[1])
        if '.HI' in of.name:
            if '.SX32' in of.name:
                high = lift(lambda x: WORD if x & 0x80000000 else 0, a)
            else:
                high = self.value(operands[2]) if len(operands) > 2 else 0
            shifted = lift(lambda x, h, s: ((h << 32 | x) << s) >> 32 & WORD, a, high, shift)
        else:
            shifted = lift(lambda x, s: x << s & WORD, a, shift)
        total = lift(lambda x, y, c: x + y + c, shifted, b, carry_in)
        self.set(target, lift(lambda v: v & WORD, total), guard)
        for carry in carries:
            self.set_predicate(carry, lift(lambda v: v >> 32, total), guard)

    def do_lop3(self, of, guard):
        operands = list(of.operands)
        found = operands.pop(0) if is_predicate(operands[0]) else None
        target = operands.pop(0)
        table = self.value(operands[3])
        a, b, c = (self.value(o) for o in operands[:3])
        value = None
        if table is not None:
            abc = [v if k in needed(table) else 0 for k, v in enumerate((a, b, c))]
            if table == 0xC0 and 0 in (a, b):
                value = 0
            else:
                value = lift(lambda x, y, z: logic(table, x, y, z), *abc)
        self.set(target, value, guard)
        if found:
            self.set_predicate(found, lift(lambda v: int(v != 0), value), guard)

    def do_plop3(self, of, guard):
        table = self.value(of.operands[5])
        a, b, c = (self.predicate(o) for o in of.operands[2:5])
        value = None
        if table is not None:
            value = self.dominated(table, (a, b, c))
            if value is None:
                abc = [v if k in needed(table) else 0 for k, v in enumerate((a, b, c))]
                value = lift(lambda x, y, z: logic(table, x, y, z, 1), *abc)
        self.set_predicate(of.operands[0], value, guard)
        if not of.operands[1].endswith('T'):
            self.set_predicate(of.operands[1], None, guard)

    @staticmethod
    def dominated(table, values):
        """The result where what is known decides it alone."""
        results = {table >> m & 1 for m in range(8)
                   if all(not isinstance(v, int) or v == (m >> bit & 1) for v, bit in zip(values, (2, 1, 0)))}
        return results.pop() if len(results) == 1 else None

    def do_shf(self, of, guard):
        target, low, shift, high = of.operands[:4]
        a, s, b = self.value(low), self.value(shift), self.value(high)
        if '.L' in of.name.split('.')[1:2] or '.L.' in of.name:
            if '.HI' in of.name:
                value = lift(lambda x, n, y: ((y << 32 | x) << (n & 63)) >> 32 & WORD, a, s, b)
            else:
                value = lift(lambda x, n: x << n & WORD if n < 64 else 0, a, s)
        elif '.HI' in of.name:
            if '.S32' in of.name or '.S64' in of.name:
                value = lift(lambda n, y: signed(y) >> min(n, 31) & WORD, s, b)
            else:
                value = lift(lambda n, y: y >> n if n < 64 else 0, s, b)
        else:
            value = lift(lambda x, n, y: (y << 32 | x) >> (n & 63) & WORD, a, s, b)
        self.set(target, value, guard)

    def do_isetp(self, of, guard):
        parts = of.name.split('.')
        compare = COMPARE.get(parts[1])
        operands = of.operands
        combine = self.predicate(operands[4]) if len(operands) > 4 else 1
        if compare is None:
            self.set_predicate(operands[0], None, guard)
            return
        if '64' in parts or 'U64' in parts or 'S64' in parts:
            a, b = self.wide(operands[2]), self.wide(operands[3])
            top = 1 << 63
        else:
            a, b = self.value(operands[2]), self.value(operands[3])
            top = 0x80000000
        if not any(p.startswith('U') for p in parts[2:]):
            a, b = (lift(lambda v: v - 2 * top if v & top else v, x) for x in (a, b))
        if 'EX' in parts:
            lower = self.predicate(operands[5])
            result = lift(lambda x, y, low: int(compare(x, y)) if x != y else low, a, b, lower)
        else:
            result = lift(lambda x, y: int(compare(x, y)), a, b)
        how = 'OR' if 'OR' in parts else 'XOR' if 'XOR' in parts else 'AND'
        self.set_predicate(operands[0], self.combined(how, result, combine), guard)
        self.set_predicate(operands[1], self.combined(how, lift(lambda v: 1 - v, result), combine), guard)

    @staticmethod
    def combined(how, a, b):
        """Two predicates; one that decides alone does so where the other is not known."""
        if how == 'XOR':
            return lift(lambda x, y: x ^ y, a, b)
        deciding = 1 if how == 'OR' else 0
        pairs = zip(lanes_of(a), lanes_of(b))
        return together(tuple(deciding if deciding in pair else None if None in pair else 1 - deciding for pair in pairs))

    def do_fsetp(self, of, guard):
        parts = of.name.split('.')
        compare = COMPARE.get(parts[1].rstrip('U'))
        if of.name[0] == 'D':
            a, b, number = self.double_value(of.operands[2]), self.double_value(of.operands[3]), double_of
        else:
            a, b, number = self.float_value(of.operands[2]), self.float_value(of.operands[3]), float_of
        result = lift(lambda x, y: int(compare(number(x), number(y))), a, b) if compare else None
        combine = self.predicate(of.operands[4]) if len(of.operands) > 4 else 1
        result = self.combined('OR' if 'OR' in parts else 'XOR' if 'XOR' in parts else 'AND', result, combine)
        self.set_predicate(of.operands[0], result, guard)
        if not of.operands[1].endswith('T'):
            self.set_predicate(of.operands[1], None, guard)

    do_dsetp = do_fsetp

    def double_value(self, text):
        if REGISTER.match(text) or CONSTANT.match(text):
            return self.wide(text) if text[0] not in '-|~' else None
        try:
            return struct.unpack('<Q', struct.pack('<d', float(text.replace('INF', 'inf'))))[0]
        except ValueError:
            return None

    def float_value(self, text):
        if REGISTER.match(text) or CONSTANT.match(text):
            return self.value(text) if text[0] not in '-|~' else None
        try:
            return bits_of(float(text.replace('+INF', 'inf').replace('-INF', '-inf').strip()))
        except ValueError:
            return None

    def do_sel(self, of, guard):
        p = self.predicate(of.operands[3])
        if '.64' in of.name:
            self.set_wide(of.operands[0], chosen(p, self.wide(of.operands[1]), self.wide(of.operands[2])), guard)
        else:
            self.set(of.operands[0], chosen(p, self.value(of.operands[1]), self.value(of.operands[2])), guard)

    def do_fsel(self, of, guard):
        if any(text[0] in '-|' for text in of.operands[1:3]):
            self.not_known(of, guard)
        else:
            self.do_sel(of, guard)

    def do_iabs(self, of, guard):
        self.set(of.operands[0], lift(lambda v: abs(signed(v)), self.value(of.operands[1])), guard)

    def do_imnmx(self, of, guard):
        smallest = self.predicate(of.operands[-1])
        a, b = (self.value(o) for o in of.operands[1:-1] if not is_predicate(o))
        if '.U32' not in of.name:
            a, b = lift(signed, a), lift(signed, b)
        self.set(of.operands[0], lift(lambda x, y, p: (min(x, y) if p else max(x, y)) & WORD, a, b, smallest), guard)
    do_vimnmx = do_imnmx

    def do_viaddmnmx(self, of, guard):
        smallest = self.predicate(of.operands[-1])
        a, b, c = (self.value(o) for o in of.operands[1:-1] if not is_predicate(o))
        total = lift(lambda x, y: (x + y) & WORD, a, b)
        if '.U32' not in of.name:
            total, c = lift(signed, total), lift(signed, c)
        self.set(of.operands[0], lift(lambda x, y, p: (min(x, y) if p else max(x, y)) & WORD, total, c, smallest), guard)

    def do_prmt(self, of, guard):
        self.set(of.operands[0], lift(permute, *(self.value(o) for o in of.operands[1:4])), guard)

    def do_popc(self, of, guard):
        self.set(of.operands[0], lift(lambda v: bin(v).count('1'), self.value(of.operands[1])), guard)

    # A division by an integer that is not a constant begins with a reciprocal in float.
    def do_i2f(self, of, guard):
        if 'F64' in of.name:
            self.not_known(of, guard)
            return
        value = self.value(of.operands[1])
        if 'U32' not in of.name:
            value = lift(signed, value)
        self.set(of.operands[0], lift(lambda v: bits_of(float(v)), value), guard)
    do_i2fp = do_i2f

    def do_mufu(self, of, guard):
        if of.name == 'MUFU.RCP' and self.float_value(of.operands[1]) is not None:
            self.set(of.operands[0], lift(reciprocal, self.float_value(of.operands[1])), guard)
        else:
            self.not_known(of, guard)

    def do_f2i(self, of, guard):
        if 'TRUNC' in of.name and 'U32' in of.name and 'F64' not in of.name:
            self.set(of.operands[0], lift(to_integer, self.float_value(of.operands[1])), guard)
        else:
            self.not_known(of, guard)

    def do_p2r(self, of, guard):
        mask = self.value(of.operands[3])
        values = [self.predicates.get(f'P{k}') if mask is not None and mask >> k & 1 else 0 for k in range(7)]
        self.set(of.operands[0], lift(lambda *p: sum(v << k for k, v in enumerate(p)), *values), guard)

    def do_r2p(self, of, guard):
        mask, value = self.value(of.operands[2]), self.value(of.operands[1])
        for k in range(7):
            if mask is None or mask >> k & 1:
                self.set_predicate(f'P{k}', lift(lambda v: v >> k & 1, value), guard)

    # ---- memory ----

    @staticmethod
    def width(name):
        for part, size in (('128', 16), ('64', 8), ('U8', 1), ('S8', 1), ('U16', 2), ('S16', 2)):
            if part in name.split('.')[1:]:
                return size
        return 4

    def do_lds(self, of, guard):
        size = self.width(of.name)
        address = self.address(in_brackets(of.operands[1]))
        self.touch(of, address, size, guard)
        for word in range(max(1, size // 4)):
            self.set(of.operands[0], lift(lambda a: self.shared_word(a + 4 * word, min(size, 4)), address), guard, word)

    def shared_word(self, address, size):
        word = self.shared.get(address & ~3)
        if word is None or size == 4:
            return word
        return word >> 8 * (address & 3) & (1 << 8 * size) - 1

    def do_sts(self, of, guard):
        size = self.width(of.name)
        address = self.address(in_brackets(of.operands[0]))
        self.touch(of, address, size, guard)
        on = lanes_of(self.on(guard))
        values = [lanes_of(self.value(of.operands[1], word) if not of.operands[1].endswith('Z') else 0)
                  for word in range(max(1, size // 4))]
        for lane, place in enumerate(lanes_of(address)):
            if on[lane] == 0 or place is None:
                continue
            for word, value in enumerate(values):
                at, v = place + 4 * word, value[lane] if on[lane] == 1 else None
                if size >= 4:
                    self.shared[at] = v
                else:
                    old = self.shared.get(at & ~3, 0)
                    shift, bits = 8 * (at & 3), (1 << 8 * size) - 1
                    known = v is not None and old is not None
                    self.shared[at & ~3] = old & ~(bits << shift) & WORD | (v & bits) << shift if known else None

    def touch(self, of, address, size, guard):
        """Wavefronts of an access: a bank gives one word of 4 bytes in each, to all lanes that ask for it; accesses of 8 and
        16 bytes go by half and quarter warps."""
        found = self.wavefronts[self.index[of.address]]
        if found[1] >= WATCHED or guard == 0:
            return
        lanes, on = lanes_of(address), lanes_of(self.on(guard))
        if any(lane is None and o != 0 for lane, o in zip(lanes, on)) or None in on:
            return
        count = 0
        group = LANES if size <= 4 else LANES * 4 // size
        for first in range(0, LANES, group):
            words = {(lane + 4 * k) // 4 for lane, o in zip(lanes[first:first + group], on[first:first + group]) if o
                     for k in range(max(1, size // 4))}
            banks = collections.Counter(word % 32 for word in words)
            count += max(banks.values(), default=0)
        found[0] += count
        found[1] += 1

    def do_ldsm(self, of, guard):
        matrices = 4 if of.name.endswith('.4') else 2 if of.name.endswith('.2') else 1
        found = self.wavefronts[self.index[of.address]]
        if found[1] < WATCHED:
            lanes = lanes_of(self.address(in_brackets(of.operands[1])))[:8 * matrices]
            if None not in lanes:
                for first in range(0, 8 * matrices, 8):
                    words = {lane // 4 + k for lane in lanes[first:first + 8] for k in range(4)}
                    found[0] += max(collections.Counter(w % 32 for w in words).values())
                found[1] += 1
        for word in range(matrices):
            self.set(of.operands[0], None, guard, word)

    def do_ldg(self, of, guard):
        size = self.width(of.name)
        target = next(o for o in of.operands if REGISTER.match(o))
        address = self.address(next((in_brackets(o) for o in of.operands if in_brackets(o)), None))
        for word in range(max(1, size // 4)):
            self.set(target, lift(lambda a: self.global_word(a + 4 * word, min(size, 4)), address), guard, word)
    do_ld = do_ldg

    def global_word(self, address, size):
        for start, data in self.memory:
            if start <= address and address + size <= start + len(data):
                return int.from_bytes(data[address - start:address - start + size], 'little')
        return None

    # ---- control ----

    def target(self, of):
        label = of.operands[-1].strip('`()')
        if label not in self.labels:
            if m := NUMBER.match(of.operands[-1]):
                return self.index[int(m[2], 0)]
            raise NotDerived(f'no label {label}')
        return self.index[self.labels[label]]

    def go_bra(self, at, of, guard):
        target = self.target(of)
        if '.DIV' in of.name or '.CONV' in of.name:  # taken where the warp is not together
            return at + 1
        condition = guard
        for text in of.operands[:-1]:
            if is_predicate(text):
                p = self.predicate(text)
                condition = 0 if 0 in (condition, p) else lift(lambda a, b: a & b, condition, p)
        return self.branch(at, of, condition, target)
    go_jmp = go_bra

    def branch(self, at, of, condition, target):
        if condition == 1:
            return target
        if condition == 0:
            return at + 1
        if condition is None or not isinstance(condition, int) and all(c is None for c, m in zip(lanes_of(condition), lanes_of(self.mask)) if m):
            self.assumed[of.address] += 1
            around_call = at < target and any(at < call < target for call in self.calls)
            return target if around_call else at + 1
        on = lanes_of(self.mask)
        first = next((k for k in range(LANES) if on[k] and lanes_of(condition)[k] is not None), 0)
        taken = condition[first]
        self.mask = together(tuple(int(bool(m) and c == taken) for m, c in zip(on, condition)))
        return target if taken else at + 1

    def go_brx(self, at, of, guard):
        number = self.tables.get(of.operands[0].split()[0])
        number = lanes_of(number)[0] if number is not None else None
        if number is None or number // 4 >= len(of.targets):
            raise NotDerived(f'a jump at {of.address:#x} depends on what is not known')
        return self.index[self.labels[of.targets[number // 4]]]
    go_brxu = go_brx

    def go_bssy(self, at, of, guard):
        self.saved[of.operands[0]] = self.mask
        return at + 1

    def go_bsync(self, at, of, guard):
        self.mask = self.saved.get(of.operands[0], self.mask)
        return at + 1

    def go_call(self, at, of, guard):
        return self.branch(at, of, guard, self.target(of))

    def go_ret(self, at, of, guard):
        m = REGISTER.match(of.operands[0].split()[0])
        back = self.register(words_of(m[2])) if m else None
        back = lanes_of(back)[0] if back is not None else None
        if back not in self.index:
            raise NotDerived(f'a return at {of.address:#x} depends on what is not known')
        return self.index[back]

    def go_exit(self, at, of, guard):
        if guard == 1:
            return None
        if guard == 0:
            return at + 1
        if guard is None:
            self.assumed[of.address] += 1
            return at + 1
        on = lanes_of(self.mask)
        left = tuple(int(bool(m) and g == 0) for m, g in zip(on, lanes_of(guard)))
        if not any(left):
            return None
        self.mask = together(left)
        return at + 1
