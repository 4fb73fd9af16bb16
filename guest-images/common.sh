# Shared by the scripts of this directory; sourced, not run.
# shellcheck shell=bash

images=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=$images/out
cache=$out/cache

say() { printf 'guest-images: %s\n' "$*" >&2; }
die() {
  say "$@"
  exit 1
}

# The release's code name; empty on what is not Debian.
release() { (. /etc/os-release 2>/dev/null && [ "${ID:-}" = debian ] && echo "${VERSION_CODENAME:-}"); }

# pinned SOURCE KEY: a value from manifest.toml for this release, empty if the release has no pin.
pinned() {
  awk -v section="[$1.$(release)]" -v key="$2" '
    /^\[/ { inside = ($0 == section) }
    inside && $1 == key { sub(/^[^"]*"/, ""); sub(/"[^"]*$/, ""); print; exit }
  ' "$images/manifest.toml"
}

# lock NAME [FD]: waits until nobody else has NAME; held until the last process that has the
# descriptor ends. A lock for each image: whoever builds `full` must not keep others from `tiny`.
lock() {
  local fd=${2:-9}
  if [ "$fd" = 9 ]; then exec 9>"$cache/lock.$1"; fi
  flock -n "$fd" || { say "waiting for another build: it has $1"; flock "$fd"; }
}

# need_space DIR MEGABYTES PURPOSE: refuses before a full disk does it half-way.
need_space() {
  local free
  free=$(df --output=avail -m "$1" | tail -n 1)
  [ "$free" -ge "$2" ] || die "$3 needs $2 MB free in $1, and there are ${free// /} MB"
}

# need_commands GROUP COMMAND...: names the missing commands and the script that installs them.
need_commands() {
  local group=$1 command missing=
  shift
  for command; do
    command -v "$command" >/dev/null || missing="$missing $command"
  done
  [ -z "$missing" ] || die "missing commands:$missing; guest-images/need.sh $group installs them"
}

# same_inputs DIR HASH: whether DIR holds a finished result of these inputs.
# The hash is written into a directory before it gets its name, so an interrupted run has none.
same_inputs() { [ "$(cat "$1/inputs.sha256" 2>/dev/null)" = "$2" ]; }

# publish NEW DIR: gives a finished directory its name.
publish() {
  rm -rf "$2"
  mv "$1" "$2"
}

# Our own lists of packages, which need no root, for when the system's are missing or out of date.
private_apt=()
use_private_lists() {
  [ ${#private_apt[@]} -eq 0 ] || return 0
  say "fetching current package lists, for those of this system do not have what we need"
  mkdir -p "$cache/apt/lists/partial" "$cache/apt/archives/partial"
  private_apt=(-o Dir::State::Lists="$cache/apt/lists" -o Dir::Cache="$cache/apt")
  run_apt apt-get -qq update || die "cannot fetch package lists: is there a network?"
}

# Root's apt would change to a user who cannot write to our directories.
run_apt() {
  local tool=$1
  shift
  local options=("${private_apt[@]}")
  if [ "$(id -u)" = 0 ]; then options+=(-o APT::Sandbox::User=root); fi
  "$tool" "${options[@]}" "$@"
}

# fetch SOURCE PACKAGE: downloads a source's Debian package and prints the file's path. PACKAGE is
# its name in a release that manifest.toml does not pin.
fetch() {
  local dir=$cache/deb/$1 sha256
  # In a shell of its own, that of the caller's $(fetch ...), which gives the lock back.
  lock downloads
  sha256=$(pinned "$1" sha256)
  # "pin" is written last: it says for which pin the file was fetched completely.
  if [ ! -f "$dir/pin" ] || [ "$(cat "$dir/pin")" != "$sha256" ]; then
    need_commands kernel apt-get apt-cache dpkg-deb
    rm -rf "$dir"
    mkdir -p "$dir"
    fetch_pinned "$1" "$dir" || fetch_current "$1" "$2" "$dir"
    echo "$sha256" >"$dir/pin"
  fi
  echo "$dir"/*.deb
}

# fetch_pinned SOURCE DIR: fails if there is no pin or the mirror does not have that version any more.
fetch_pinned() {
  local package version
  package=$(pinned "$1" package)
  version=$(pinned "$1" version)
  if [ -z "$version" ]; then
    say "NOTE: no version of $1 is pinned for this release; taking the archive's current one"
    return 1
  fi
  say "downloading $package $version"
  if ! download "$2" "$package=$version"; then
    use_private_lists
    if ! download "$2" "$package=$version"; then
      say "NOTE: the archive no longer has $package $version; taking its current version instead,"
      say "NOTE: checked by the archive's signature only. Images may differ from those we tested."
      return 1
    fi
  fi
  echo "$(pinned "$1" sha256)  $(echo "$2"/*.deb)" | sha256sum --check --quiet >&2 ||
    die "$package $version is not the file that manifest.toml describes (sha256 differs)"
}

# fetch_current SOURCE PACKAGE DIR
fetch_current() {
  local package
  use_private_lists
  package=$(pinned "$1" metapackage)
  package=${package:-$2}
  case $package in
    # The image itself is what the metapackage depends on.
    linux-image-cloud-*)
      package=$(run_apt apt-cache depends "$package" | awk '/Depends: linux-image/ { print $2; exit }')
      ;;
  esac
  download "$3" "$package" || die "cannot download $package from the archives that apt knows on this system"
  say "got $(basename "$3"/*.deb)"
}

# download DIR PACKAGE: apt checks the file against the archive's signed lists.
download() {
  (cd "$1" && run_apt apt-get -qq download "$2" >&2 2>"$1/log") && return 0
  sed 's/^/  apt: /' "$1/log" >&2
  return 1
}

# progress PID FILE PATTERN WHAT: until the process ends, shows how many lines of a log match.
# One line that is written over on a terminal, a line each half minute elsewhere.
progress() {
  local start=$SECONDS next=30 count
  while kill -0 "$1" 2>/dev/null; do
    sleep 1
    count=$(grep -cE "$3" "$2" || true)
    if [ -t 2 ]; then
      printf '\rguest-images: %s: %d files compiled, %d s ' "$4" "$count" $((SECONDS - start)) >&2
    elif [ $((SECONDS - start)) -ge "$next" ]; then
      say "$4: $count files compiled, $((SECONDS - start)) s"
      next=$((next + 30))
    fi
  done
  if [ -t 2 ]; then printf '\n' >&2; fi
}
