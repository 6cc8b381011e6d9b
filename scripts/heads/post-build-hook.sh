#!/bin/sh
# The head of post-build-hook. Nix runs it after every build, as root under a daemon, and waits for
# it; a hook that fails ends the user's whole command. So: normally one `ln` per cache and nothing
# else, no JavaScript for anything sh can do, exit 0 whatever happens, and nothing left running that
# holds Nix's pipe. The queue's directories belong to a user, so in them root only calls lstat and
# makes links, with `ln -s -- P... DIR/`: without the slash, or with a link's name as the target, ln
# would follow what the user put there. Called with arguments, this becomes its JavaScript,
# scripts/bin/post-build-hook.ts, which the head also uses for what sh can't do.

nix_lan_ask=
if [ $# -eq 0 ]; then
  # Exit 0 even when fork fails, which makes dash exit with 2. And let neither Nix nor a terminal
  # interrupt the few milliseconds this takes: a path whose hook was cut short is valid, and Nix
  # never runs the hook for it again.
  trap 'ended $?' EXIT
  trap '' HUP INT QUIT PIPE

  # Bytes, not characters; and the system's own tools, whatever PATH says. The only ones used: ln,
  # rarely head and id.
  LC_ALL=C
  nix_lan_path=${PATH-}
  PATH=/usr/bin:/bin:/run/current-system/sw/bin:/nix/var/nix/profiles/default/bin${PATH:+:$PATH}

  nix_lan_store=${NIX_STORE_DIR:-/nix/store}
  nix_lan_store=${nix_lan_store%/}
  nix_lan_roots=${NIX_STATE_DIR:-/nix/var/nix}/gcroots/nix-lan
  nix_lan_queue=$nix_lan_roots/queue
  nix_lan_words=${OUT_PATHS-}
  nix_lan_drv=${DRV_PATH-}

  # Nix itself puts the hook's name before each line.
  say() {
    printf 'nix-lan: %.2000s\n' "$1" >&2
  }

  # shellcheck disable=SC2317 # the trap calls it
  ended() {
    if [ "$1" != 0 ]; then say "cut short (exit $1), so that this may not be queued: $nix_lan_words $nix_lan_drv"; fi
    exit 0
  }

  # is_store_path WORD: tests for STORE/HASH-NAME as Nix writes it (libstore/path.cc: 32 base-32
  # characters; a name of at most 211).
  is_store_path() {
    case $1 in "$nix_lan_store"/*) ;; *) return 1 ;; esac
    nix_lan_base=${1#"$nix_lan_store"/}
    nix_lan_hash=${nix_lan_base%%-*}
    nix_lan_name=${nix_lan_base#*-}
    case $nix_lan_hash in *[!0-9abcdfghijklmnpqrsvwxyz]*) return 1 ;; esac
    case $nix_lan_name in '' | *[!a-zA-Z0-9+._?=-]*) return 1 ;; esac
    [ ${#nix_lan_hash} -eq 32 ] && [ "$nix_lan_base" != "$nix_lan_hash" ] && [ ${#nix_lan_name} -le 211 ]
  }

  # read_outputs: sets nix_lan_words from a .drv, which begins with
  # Derive([("out","/nix/store/...","",""),...],[ and has no line breaks: dash's `read` would read
  # all of it, a byte at a time. Fails when that takes a parser or the database: outputs that depend
  # on their content are "" there, and the list may be longer than what is read here.
  read_outputs() {
    nix_lan_words=
    nix_lan_text=$(head -c 4096 <"$nix_lan_drv" 2>/dev/null)
    case $nix_lan_text in 'Derive([("'*) ;; *) return 1 ;; esac
    nix_lan_text=${nix_lan_text#'Derive(['}
    while :; do
      nix_lan_text=${nix_lan_text#'("'*'","'}
      nix_lan_found=${nix_lan_text%%'"'*}
      is_store_path "$nix_lan_found" || break
      nix_lan_words="$nix_lan_words $nix_lan_found"
      nix_lan_text=${nix_lan_text#*')'}
      case $nix_lan_text in
        ',("'*) nix_lan_text=${nix_lan_text#,} ;;
        '],['*) return 0 ;;
        *) break ;;
      esac
    done
    nix_lan_words=
    return 1
  }

  # queue_paths WORD...: sets nix_lan_good to the words that are paths in the store, and links them
  # into every directory of the queue; if there are several, in parallel.
  queue_paths() {
    nix_lan_bad=
    nix_lan_gone=
    for nix_lan_word in "$@"; do
      shift
      if ! is_store_path "$nix_lan_word"; then
        nix_lan_bad="$nix_lan_bad $nix_lan_word"
      elif [ -L "$nix_lan_word" ] || [ -e "$nix_lan_word" ]; then
        set -- "$@" "$nix_lan_word"
      else
        # A derivation may be elsewhere: --eval-store, or a machine that builds for another.
        case $nix_lan_word in *.drv) ;; *) nix_lan_gone="$nix_lan_gone $nix_lan_word" ;; esac
      fi
    done
    nix_lan_good=$*
    if [ -n "$nix_lan_bad" ]; then say "not queued, since not a path in $nix_lan_store:$nix_lan_bad"; fi
    if [ -n "$nix_lan_gone" ]; then say "not queued, since not in this machine's $nix_lan_store (was it built in another store?):$nix_lan_gone"; fi
    if [ $# -eq 0 ]; then return; fi
    nix_lan_jobs=
    for nix_lan_dir in "$nix_lan_queue"/*"/"; do
      if [ -L "${nix_lan_dir%/}" ]; then
        say "$nix_lan_dir is a symlink, which is no GC root and may lead anywhere: not followed; put a directory in its place"
      elif [ -d "$nix_lan_dir" ]; then
        if [ "$nix_lan_caches" = 1 ]; then
          ln -s -- "$@" "$nix_lan_dir" 2>/dev/null || queue_again "$nix_lan_dir" "$@"
        else
          ln -s -- "$@" "$nix_lan_dir" 2>/dev/null &
          nix_lan_jobs="$nix_lan_jobs $!"
        fi
      fi
    done
    nix_lan_late=
    for nix_lan_job in $nix_lan_jobs; do wait "$nix_lan_job" || nix_lan_late=1; done
    if [ -z "$nix_lan_late" ]; then return; fi
    for nix_lan_dir in "$nix_lan_queue"/*"/"; do
      if [ -d "$nix_lan_dir" ] && ! [ -L "${nix_lan_dir%/}" ]; then queue_again "$nix_lan_dir" "$@"; fi
    done
  }

  # queue_again DIR/ PATH...: tries again after an ln that failed. A path that is already queued is
  # no failure; anything else is reported.
  queue_again() {
    nix_lan_dir=$1
    nix_lan_why=
    shift
    while :; do
      for nix_lan_word in "$@"; do
        shift
        if ! [ -L "$nix_lan_dir${nix_lan_word##*[/]}" ]; then set -- "$@" "$nix_lan_word"; fi
      done
      if [ $# -eq 0 ]; then return; fi
      if [ -n "$nix_lan_why" ]; then break; fi
      nix_lan_why=$(ln -s -- "$@" "$nix_lan_dir" 2>&1) && return
    done
    say "built, but not queued in $nix_lan_dir (${nix_lan_why##*: }); once that is fixed: nix-lan queue add $*"
  }

  # is_safe_for_root: tests that the queue and its parent are real directories and, if we are root,
  # root's: in a directory of the user's, the name given to ln could become a link between our check
  # and ln's.
  is_safe_for_root() {
    for nix_lan_dir in "$nix_lan_roots" "$nix_lan_queue"; do
      if [ -L "$nix_lan_dir" ]; then
        say "$nix_lan_dir is a symlink, which is no GC root: nothing queued; put a directory in its place"
        return 1
      fi
      if ! [ -O "$nix_lan_dir" ] && [ "$(id -u)" = 0 ]; then
        say "$nix_lan_dir is not root's, so that root must not work in it: nothing queued; try: chown root $nix_lan_dir"
        return 1
      fi
    done
  }

  # is_told: nobody set up a queue, and --make-queue has already said so, since the machine started
  # and since a configuration last changed.
  is_told() {
    for nix_lan_told in /run/nix-lan/no-queue "${XDG_RUNTIME_DIR:-/run}/nix-lan/no-queue"; do
      if [ -e "$nix_lan_told" ]; then
        for nix_lan_found in /etc/nix-lan/config.toml "${HOME-}/.config/nix-lan/config.toml" "${NIX_LAN_CONFIG-}"; do
          # shellcheck disable=SC3013 # POSIX has -nt since 2024; dash, busybox and bash had it long before
          if [ "$nix_lan_found" -nt "$nix_lan_told" ]; then return 1; fi
        done
        return 0
      fi
    done
    return 1
  }

  if [ -z "$nix_lan_words$nix_lan_drv" ]; then
    say 'neither OUT_PATHS nor DRV_PATH is set: Nix runs this after a build; see --help'
    exit 0
  fi
  if [ -d "$nix_lan_queue" ]; then is_safe_for_root || exit 0; fi

  # Empty in Nix 2.8.0 for every build, and in 2.30 and 2.31 with --check (NixOS/nix#6446).
  if [ -z "$nix_lan_words" ]; then
    if ! is_store_path "$nix_lan_drv" || ! [ -f "$nix_lan_drv" ]; then
      say "nothing queued: no OUT_PATHS, and DRV_PATH is not in this machine's $nix_lan_store: $nix_lan_drv"
      exit 0
    fi
    read_outputs || nix_lan_ask=' --outputs'
  fi

  set -- "$nix_lan_queue"/*"/"
  nix_lan_caches=$#
  if ! [ -d "$1" ]; then
    if is_told; then exit 0; fi
    nix_lan_ask="$nix_lan_ask --make-queue"
  else
    # A cache added to the configuration gets its directory; --make-queue then leaves the queue
    # newer than the configuration.
    # shellcheck disable=SC3013
    if [ /etc/nix-lan/config.toml -nt "$nix_lan_queue" ] && [ -O "$nix_lan_queue" ]; then nix_lan_ask="$nix_lan_ask --make-queue"; fi
  fi

  IFS=' '
  set -f
  # shellcheck disable=SC2086
  set -- $nix_lan_words $nix_lan_drv
  set +f
  unset IFS
  queue_paths "$@"
  if [ -z "$nix_lan_ask" ]; then exit 0; fi
  PATH=$nix_lan_path
fi

. ./runtime.sh

if [ -z "$nix_lan_ask" ]; then
  if find_runtime; then become_javascript "$@"; fi
  echo 'post-build-hook: no JavaScript runtime found: install Node 18.19 or later, Deno 2 or Bun' >&2
  exit 127
fi

nix_lan_words=
if ! find_runtime; then
  nix_lan_why='no JavaScript runtime found: install Node 18.19 or later, Deno 2 or Bun'
elif nix_lan_runtime=$nix_lan_found && ! find_program timeout; then
  nix_lan_why='no program "timeout" found: install coreutils'
else
  # It prints store paths; its messages go to stderr, but not the shell's "Killed". At the time
  # limit its whole process group is killed, so nothing is left that holds Nix's pipe.
  # shellcheck disable=SC2086
  { nix_lan_words=$("$nix_lan_found" -s KILL 0.9 /bin/sh "$0" $nix_lan_ask </dev/null 2>&3 3>&-); } 3>&2 2>/dev/null
  case $? in
    0 | 1 | 2) nix_lan_why= ;;
    124 | 137) nix_lan_why="$nix_lan_runtime took more than 0.9 s and was stopped" ;;
    *) nix_lan_why="$nix_lan_runtime failed" ;;
  esac
fi
if [ -n "$nix_lan_why" ]; then
  say "$nix_lan_why, so that this may be incomplete (post-build-hook$nix_lan_ask for $nix_lan_drv)"
fi

# All of it again: some directories may be new.
if [ -d "$nix_lan_queue" ]; then
  PATH=/usr/bin:/bin:/run/current-system/sw/bin:/nix/var/nix/profiles/default/bin${PATH:+:$PATH}
  set -f
  # shellcheck disable=SC2086
  set -- $nix_lan_good $nix_lan_words
  set +f
  if is_safe_for_root; then queue_paths "$@"; fi
fi
exit 0
