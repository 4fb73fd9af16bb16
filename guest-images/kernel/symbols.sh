#!/usr/bin/env bash
# Makes a file of symbols for gdb from a kernel's System.map: symbols.sh SYSTEM.MAP FILE
#
# Our kernels are stripped, and a distribution's are; the map is all there is of their names. The result
# is an ELF file without contents: `gdb FILE`, and then `target remote` as cottage says it (docs/gdb.md).
# No types, no lines: those need a kernel built with debug information.
set -euo pipefail

[ $# = 2 ] || { echo "usage: guest-images/kernel/symbols.sh SYSTEM.MAP FILE" >&2; exit 1; }
map=$1 file=$2
for command in as ld awk; do
  command -v "$command" >/dev/null || { echo "symbols.sh: there is no $command; Debian's package binutils has it" >&2; exit 1; }
done
address() { awk -v name="$1" '$3 == name { print $1; exit }' "$map"; }
start=$(address _text) end=$(address _end)
[ -n "$start" ] && [ -n "$end" ] || { echo "symbols.sh: $map has no _text and _end: it is no kernel's System.map" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# One section from _text to _end, symbols as distances in it. Names that are no identifiers are quoted;
# per-CPU offsets and absolute values are no addresses and are left out. awk's numbers have 53 bits, so
# only the lower 32 bits of addresses are compared and subtracted: all have the same upper ones.
awk -v start="$start" -v end="$end" '
  function low(hex,    i, n) {
    n = 0; hex = substr(hex, length(hex) - 7)
    for (i = 1; i <= 8; i++) n = n * 16 + index("0123456789abcdef", substr(hex, i, 1)) - 1
    return n
  }
  BEGIN { first = low(start); last = low(end); upper = substr(start, 1, 8); print ".section .kernel,\"ax\",@nobits\nbase:" }
  substr($1, 1, 8) != upper || $2 ~ /[aA]/ { next }
  {
    at = low($1)
    if (at < first || at > last || seen[$3]++) next
    kind = $2 ~ /[tTwW]/ ? "function" : "object"
    printf ".set \"%s\", base + %d\n.type \"%s\", @%s\n", $3, at - first, $3, kind
    printf ".globl \"%s\"\n", $3 # gdb sets no breakpoint at a local symbol without a source file
  }
  END { printf ".skip %d\n", last - first }' "$map" >"$work/symbols.s"
as -o "$work/symbols.o" "$work/symbols.s"
ld -e 0 "--section-start=.kernel=0x$start" -o "$work/symbols" "$work/symbols.o"
mv "$work/symbols" "$file"
