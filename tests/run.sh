#!/usr/bin/env bash
# Everything `make test` runs, in order: set-up, format, lints, unit tests, documentation, and then
# the suites of tests/*.rs, on this machine and in the testbed. A stage that fails does not keep the
# later ones from running. The summary at the end counts each test once, however many KVMs it ran
# on; one that ran on none is a failure of the whole, because then nothing was tested.
#
# The last line has the form "N passed, N failed, N skipped"; the exit status is 0 only if nothing
# failed and nothing was skipped everywhere. Logs stay in build/test/.
set -euo pipefail

cd "$(dirname "$0")/.."
work=$PWD/build/test
rm -rf "$work"
mkdir -p "$work/images" "$work/testbed"
results=$work/results # suite, test, "ok" or "FAILED" or "ignored", "host" or "testbed"; one a line
report=$work/report   # the tests' own records: test, back end, "ran" or "skipped: REASON"
touch "$results" "$report.host" "$report.testbed"
stages=()             # one line for each stage of the summary
failed_stages=()
checks_passed=0 checks_failed=0

# Where rustup puts cargo, for shells that have not read its profile yet.
PATH=$PATH:$HOME/.cargo/bin

# ---- stages ---------------------------------------------------------------------------------

# stage NAME LIMIT COMMAND...: runs COMMAND for at most LIMIT seconds; returns its status.
# What it says goes to the terminal and to the file $log.
stage() {
	local name=$1 limit=$2 status=0 start=$SECONDS verdict=passed
	shift 2
	log=$work/${name//[ \/]/-}.log
	printf '\n==== %s\n' "$name"
	# In a pipeline, so that output appears as it comes. --kill-after: some ignore the first signal.
	timeout --kill-after=20 "$limit" "$@" </dev/null 2>&1 | tee "$log" || status=$?
	if ((status == 124 || status == 137)) && ((SECONDS - start >= limit)); then
		verdict="FAILED: did not end within $limit s"
	elif ((status)); then
		verdict="FAILED with status $status"
	fi
	((status == 0)) || failed_stages+=("$name: $verdict")
	printf -v verdict '%-28s %5d s  %s' "$name" $((SECONDS - start)) "$verdict"
	stages+=("$verdict")
	return "$status"
}

# check NAME LIMIT COMMAND...: a stage that is one test by itself.
check() {
	if stage "$@"; then
		checks_passed=$((checks_passed + 1))
	else
		checks_failed=$((checks_failed + 1))
	fi
}

# collect SUITE PLACE: adds the results in $log to the list, or those of each program if SUITE is "".
collect() {
	awk -v suite="$1" -v place="$2" '
		/^ +Running .*deps\/[^)]*\)/ {
			program = $0; sub(/.*\//, "", program); sub(/-[0-9a-f]+\).*/, "", program)
		}
		/^ +Doc-tests / { program = "doc-" $2 }
		/^test .* \.\.\. / {
			name = $0; sub(/^test /, "", name); sub(/ \.\.\. .*/, "", name)
			sub(/ - should panic$/, "", name)
			verdict = $0; sub(/.* \.\.\. /, "", verdict); sub(/[ ,].*/, "", verdict)
			print (suite == "" ? program : suite) "\t" name "\t" verdict "\t" place
		}' "$log" >>"$results"
}

# tests SUITE PLACE NAME LIMIT COMMAND...: a stage that runs a libtest program, or several.
tests() {
	local suite=$1 place=$2
	shift 2
	if ! stage "$@"; then
		# A program that dies names no failed test.
		grep -q '^test .* \.\.\. FAILED' "$log" || echo "${suite:-$1}	(the program itself)	FAILED	$place" >>"$results"
	fi
	collect "$suite" "$place"
}

# ---- set-up ---------------------------------------------------------------------------------
# Each step by itself: a program that does not compile must not keep the kernels from being built.
check "tools" 900 guest-images/need.sh rust kernel roots testbed tests
check "guest images" 1200 guest-images/build.sh tiny initramfs debian-cloud roots debian-rootfs memtest86plus kernels
check "full kernel" 2000 guest-images/build.sh full
check "cottage" 600 make cottage
check "testbed" 300 tests/testbed/build.sh

# ---- what needs no KVM ----------------------------------------------------------------------
check "format" 60 cargo fmt --all --check
# Package by package: together they would share one rustix, with the standard library that cottage
# needs of it and the bare cottage-init and cottage-probe must not have.
# shellcheck disable=SC2016 # here and below the inner bash expands
check "lints" 600 bash -c '
	status=0
	cargo clippy --package cottage --all-targets -- -D warnings || status=$?
	cargo clippy --package cottage-init --all-targets -- -D warnings || status=$?
	cargo clippy --package cottage-probe --all-targets -- -D warnings || status=$?
	exit "$status"'
# shellcheck disable=SC2016
check "shell scripts" 60 bash -c '
	for script in $(git ls-files "*.sh" tests/testbed/init .ci/run); do
		case $(head -n 1 "$script") in
		"#!/bin/sh") sh -n "$script" ;;
		*) bash -n "$script" ;;
		esac || exit 1
	done'
# shellcheck disable=SC2016
tests "" host "unit tests" 600 bash -c '
	status=0
	cargo test --package cottage --no-fail-fast --lib --bins || status=$?
	cargo test --package cottage-init --no-fail-fast --lib || status=$?
	cargo test --package cottage-probe --no-fail-fast --lib --test words || status=$?
	exit "$status"'
tests "" host "documentation tests" 300 cargo test --workspace --doc
check "documentation" 300 env RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# ---- the suites -----------------------------------------------------------------------------
list_suites() {
	cargo test --package cottage --test '*' --no-run --message-format=json >"$1"
}
export -f list_suites
# shellcheck disable=SC2016
check "build suites" 600 bash -euo pipefail -c 'list_suites "$1"' list_suites "$work/cargo.json"
suites=()
while IFS= read -r program; do
	suites+=("$program")
done < <(sed -n '/"kind":\["test"\]/s/.*"executable":"\([^"]*\)".*/\1/p' "$work/cargo.json")

suite_name() { # as the tests' own records have it: the file name without cargo's hash
	local name=${1##*/}
	printf '%s' "${name%-*}"
}

for program in "${suites[@]}"; do
	name=$(suite_name "$program")
	tests "$name" host "$name" 600 env COTTAGE_TEST_REPORT="$report.host" "$program"
done

# The testbed gets the suites that asked for a KVM, be it in vain: they have a line in the report.
for image in tiny/vmlinux tiny/bzImage full/vmlinux initramfs.cpio init debian-cloud/vmlinuz \
	memtest86plus/x64.bin memtest86plus/ia32.bin; do
	[[ -e guest-images/out/$image ]] || continue
	mkdir -p "$work/images/$(dirname "$image")"
	# A link saves the copy where the file system allows it.
	ln -L "guest-images/out/$image" "$work/images/$image" 2>/dev/null ||
		cp -L "guest-images/out/$image" "$work/images/$image"
done

# Only where they are asked for, being large: Debian with its modules; passt and curl, with their libraries.
mkdir -p "$work/rootfs" "$work/passt"
for image in full/vmlinux debian-cloud/vmlinuz debian-cloud/modules roots debian-rootfs; do
	mkdir -p "$work/rootfs/$(dirname "$image")"
	cp -al "guest-images/out/$image" "$work/rootfs/$image" 2>/dev/null ||
		cp -a "guest-images/out/$image" "$work/rootfs/$image" || true
done
for program in passt curl; do
	program=$(command -v "$program") || continue
	for file in "$program" $(ldd "$program" | grep -o '/[^ ]*'); do
		cp -L --parents "$file" "$work/passt/"
	done
done

# gdb, with its libraries and, if it has one, its Python; and the names of the full kernel for it.
mkdir -p "$work/gdb/usr/share/gdb"
if program=$(command -v gdb); then
	for file in "$program" $(ldd "$program" | grep -o '/[^ ]*'); do
		cp -L --parents "$file" "$work/gdb/"
	done
	python=$(ldd "$program" | sed -n 's/.*lib\(python3\.[0-9]*\)\.so.*/\1/p' | head -n 1)
	# With their times: compiled modules count only beside sources as old as they say. Without what is for
	# building programs with Python, which is large.
	[[ -z $python ]] || tar -C / -c --exclude=config-* --exclude=dist-packages --exclude=test \
		--exclude=idlelib --exclude=ensurepip --exclude=lib2to3 "usr/lib/$python" usr/share/gdb | tar -x -C "$work/gdb"
fi
guest-images/kernel/symbols.sh guest-images/out/full/System.map "$work/images/full/symbols" || true

# An emulated machine that froze (status 124; docs/adr/0010-testbed.md) proves nothing about cottage:
# up to three times, and the log says so. Any other failure stands. What a suite said in a machine that
# froze is marked, so that nobody takes it for a result.
testbed_or_again() {
	local status attempt said
	said=$(mktemp)
	for attempt in 1 2 3; do
		status=0
		"$@" >"$said" 2>&1 || status=$?
		((status == 124)) || break
		sed 's/^/frozen: /' "$said"
		echo "THE TESTBED FROZE, attempt $attempt of 3"
	done
	cat "$said"
	rm -f "$said"
	return "$status"
}
export -f testbed_or_again

# in_testbed NAME PROGRAM LOG ARGUMENT...: a suite, or the tests of it that are named.
in_testbed() {
	local name=$1 program=$2 log=$3 limit=1100 images=images more=()
	shift 3
	case $name in rootfs | debian) images=rootfs ;; esac
	case $name in net | debian) more=(--dir "$work/passt:passt") ;; esac
	[[ $name != gdb ]] || more=(--cpus 2 --dir "$work/gdb:gdb")
	# The suite of networks takes half a minute, and has frozen the testbed more often than others, why
	# is not known: it is not waited for as long.
	[[ $name != net ]] || limit=300
	: >"$work/testbed/$name/records"
	# shellcheck disable=SC2016
	timeout --kill-after=20 2300 bash -c 'testbed_or_again "$@"' bash \
		tests/testbed/run.sh --timeout "$limit" \
		--file "$program" --file "$work/testbed/$name/records" --dir "$work/$images:images" "${more[@]}" -- \
		env COTTAGE_PASST=/files/passt COTTAGE_GDB=/files/gdb COTTAGE_IMAGES=/files/images COTTAGE_TEST_REPORT=/files/records \
		"/files/${program##*/}" --test-threads 2 "$@" </dev/null >"$log" 2>&1
}

# testbed_suite NAME PROGRAM: leaves in testbed/NAME the log, the tests' own records, how long it took
# and how it ended. What failed is tried once more, on a second emulated machine: such machines hang a
# guest now and then (docs/adr/0010-testbed.md). What fails twice has failed. What passes then stands
# in the summary as what it is, and more than a few are no accident.
readonly accidents=3
testbed_suite() {
	local name=$1 program=$2 folder=$work/testbed/$1 start=$SECONDS status=0 failed=() test
	mkdir -p "$folder"
	in_testbed "$name" "$program" "$folder/log" || status=$?
	cp "$folder/records" "$folder/report"
	mapfile -t failed < <(sed -n 's/^test \(.*\) \.\.\. FAILED.*/\1/p' "$folder/log")
	if ((status && ${#failed[@]} && ${#failed[@]} <= accidents)); then
		cp "$folder/log" "$folder/log.first"
		if in_testbed "$name" "$program" "$folder/log.second" --exact "${failed[@]}"; then
			status=0
			for test in "${failed[@]}"; do
				sed -i "s/^test $test \.\.\. FAILED/test $test ... ok/" "$folder/log"
				echo "$name::$test" >>"$folder/second"
			done
		fi
		cat "$folder/records" >>"$folder/report"
		cat "$folder/log.second" >>"$folder/log.first"
	fi
	echo "$status $((SECONDS - start))" >"$folder/end"
}

# As many at a time as there are processors: an emulated machine keeps one busy. The longest first, so
# that it does not run alone in the end.
names=()
mapfile -t suites < <(printf '%s\n' "${suites[@]}" |
	awk '/\/console-[0-9a-f]*$/ { print; next } { rest = rest $0 "\n" } END { printf "%s", rest }')
for program in "${suites[@]}"; do
	name=$(suite_name "$program")
	grep -q "^$name::" "$report.host" || continue
	while (($(jobs -rp | wc -l) >= $(nproc))); do
		wait -n || true
	done
	printf '\n==== %s in the testbed begins\n' "$name"
	names+=("$name")
	testbed_suite "$name" "$program" &
done
wait

for name in "${names[@]}"; do
	folder=$work/testbed/$name log=$work/testbed/$name/log
	printf '\n==== %s in the testbed\n' "$name"
	cat "$log"
	read -r status seconds <"$folder/end"
	verdict=passed
	if ((status)); then
		verdict="FAILED with status $status"
		failed_stages+=("$name in the testbed: $verdict")
		# A program that dies names no failed test.
		grep -q '^test .* \.\.\. FAILED' "$log" || echo "$name	(the program itself)	FAILED	testbed" >>"$results"
	fi
	printf -v verdict '%-28s %5d s  %s' "$name in the testbed" "$seconds" "$verdict"
	stages+=("$verdict")
	collect "$name" testbed
	cat "$folder/report" >>"$report.testbed"
done

# Disks that QEMU made, and that it judges.
check "qcow2 disks" 1600 bash -c 'testbed_or_again tests/testbed/qcow2.sh'

# What a boot costs, in counts that repeat.
check "boot cost" 900 bash -c 'testbed_or_again tests/testbed/baseline.sh'
if grep -q '^baseline: NOT COMPARED' "$log"; then
	stages+=("                             its baseline is of another machine: NOTHING WAS COMPARED")
	checks_passed=$((checks_passed - 1))
fi

# ---- the summary ----------------------------------------------------------------------------
printf '\n==== summary\n\n'
printf '%s\n' "${stages[@]}"
echo

# The tests' records, each with the place it was made in, before the results.
sed 's/^/host\t/' "$report.host" >"$report"
sed 's/^/testbed\t/' "$report.testbed" >>"$report"
failing=0
awk -F '\t' -v checks_passed="$checks_passed" -v counts="$work/counts" '
	FILENAME == ARGV[1] { # the records: place, test, back end, what happened
		backend[$1, $2] = $3
		if ($4 != "ran") { reason[$1, $2] = $4; sub(/^skipped: /, "", reason[$1, $2]) }
		next
	}
	{ # the results: suite, test, verdict, place
		test = $1 "::" $2
		on = ((($4, test) in backend) ? backend[$4, test] : "-")
		if (on == "none") on = "no KVM"
		key = $1 "\t" on
		if (!(key in seen)) { seen[key] = 1; order[++rows] = key }
		if (!(test in known)) { known[test] = 1; tests[++count] = test }
		if ($3 == "FAILED") { failed[key]++; ran[key]++; bad[test] = bad[test] " " on }
		else if ($3 == "ignored") { skipped[key]++; why[test] = why[test] "\n      ignored in the source" }
		else if (($4, test) in reason) {
			skipped[key]++; why[test] = why[test] "\n      " on ": " reason[$4, test]
		} else { passed[key]++; ran[key]++; good[test]++; if (on != "-") places[test] = places[test] "," on }
	}
	END {
		printf "%-24s %-14s %6s %6s %6s %7s\n", "suite", "back end", "ran", "passed", "failed", "skipped"
		for (i = 1; i <= rows; i++) {
			split(order[i], part, "\t")
			printf "%-24s %-14s %6d %6d %6d %7d\n", part[1], part[2], ran[order[i]], passed[order[i]],
				failed[order[i]], skipped[order[i]]
		}
		for (i = 1; i <= count; i++) {
			test = tests[i]
			if (test in bad) n_failed++
			else if (test in good) { n_passed++; if (split(places[test], part, ",") > 2) both++ }
			else n_skipped++
			if ((test in why) && (test in good)) partly[++n_partly] = test
			if ((test in why) && !(test in good) && !(test in bad)) nowhere[++n_nowhere] = test
		}
		printf "\nran on two back ends: %d tests\n", both
		for (i = 1; i <= n_partly; i++) {
			reasons = why[partly[i]]
			if (!(reasons in group)) grouped[++n_groups] = reasons
			group[reasons] = group[reasons] "\n  " partly[i]
		}
		for (i = 1; i <= n_groups; i++) {
			print "\nskipped on one back end, ran on another, because" grouped[i] group[grouped[i]]
		}
		if (n_nowhere) print "\nSKIPPED EVERYWHERE, which fails the whole:"
		for (i = 1; i <= n_nowhere; i++) print "  " nowhere[i] why[nowhere[i]]
		if (n_failed) print "\nFAILED:"
		for (i = 1; i <= count; i++) if (tests[i] in bad) print "  " tests[i] "  (" substr(bad[tests[i]], 2) ")"
		print n_passed + checks_passed, n_failed + 0, n_skipped + 0 >counts
	}' "$report" "$results"
read -r passed failing skipped <"$work/counts"
if ls "$work"/testbed/*/second >/dev/null 2>&1; then
	printf '\nFAILED IN ONE EMULATED MACHINE, PASSED IN A SECOND (build/test/testbed/*/log.first):\n'
	sed 's/^/  /' "$work"/testbed/*/second
fi

# A check is one test by itself; the tests of a failed suite are among the results.
failing=$((failing + checks_failed))
[[ ${#failed_stages[@]} -eq 0 ]] || printf "failed stage: %s\n" "${failed_stages[@]}"
printf '\nin %d min %d s\n' $((SECONDS / 60)) $((SECONDS % 60))
echo "$passed passed, $failing failed, $skipped skipped"
((failing == 0 && skipped == 0 && ${#failed_stages[@]} == 0))
