"""How many locked instructions a request costs: reference counts, locks, counters, whatever writes memory that another CPU may hold.

callgrind says how often each instruction ran (`--dump-instr=yes`), and the disassembly of the program which ones have a `lock` prefix or are
an `xchg` with memory, which locks by itself. Each costs some twenty cycles where nobody else wants the same line, and many times that where
somebody does. The gateway's own are those in functions that name the crate; what is inlined from elsewhere counts for them.
"""

import collections
import re
import subprocess

from .servers import Failure, tool

INSTRUCTION = re.compile(r"\s*([0-9a-f]+):\s+(?:lock |xchg .*\()")
NAME = re.compile(r"c?(ob|fn)=\((\d+)\)(?: (.*))?")
COST = re.compile(r"(\*|[+-]\d+|0x[0-9a-f]+) \S+ (\d+)$")
OWN = "torana"


def addresses(program):
    """The addresses of the locked instructions of a program."""
    if not tool("objdump"):
        raise Failure("objdump is missing: apt-get install binutils")
    shown = subprocess.Popen([tool("objdump"), "-d", "--no-show-raw-insn", str(program)], stdout=subprocess.PIPE, text=True)
    with shown:
        found = {int(match[1], 16) for line in shown.stdout if (match := INSTRUCTION.match(line))}
    if shown.returncode or not found:
        raise Failure(f"objdump finds nothing in {program}")
    return found


def by_function(dump, program, locked):
    """How often locked instructions ran in each function of the program, from a file of callgrind."""
    names, counts = {}, collections.Counter()
    here, function, address, is_call = False, None, 0, False
    for line in dump.read_text().splitlines():
        if name := NAME.match(line):
            kind, number, text = name.groups()
            text = names.setdefault((kind, number), text)
            if line.startswith("ob="):
                here = text == str(program)
            elif line.startswith("fn="):
                function = text
        elif line.startswith("calls="):
            # What follows is what the call cost, which is counted where it was spent.
            is_call = True
        elif cost := COST.match(line):
            place = cost[1]
            if place != "*":
                address = int(place, 16) if place.startswith("0x") else address + int(place)
            if here and not is_call and address in locked:
                counts[function] += int(cost[2])
            is_call = False
    return counts


def own(counts):
    """The sum of those that are the gateway's."""
    return sum(count for function, count in counts.items() if OWN in function)
