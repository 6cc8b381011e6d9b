#!/bin/sh
# The head of nix-lan-connect. A Nix build fails when this program can't be started, so without a
# JavaScript runtime, or when that can't start, it becomes an empty store of Nix's own. With
# --strict (an upload, a person) an empty store would be a lie: exit 75, "the box is away".
. ./runtime.sh

# perl, if known beforehand: nix/package.nix writes an absolute path between the quotes.
nix_lan_perl=''

# relay CACHE: passes Nix on to the broker of a cache, while root's file says that there is one, and
# ends. Returns when nothing of what Nix says has been taken: then JavaScript goes on.
#
# The relay reads nothing of Nix's before the broker has said hello, so one that is stopped or mute
# costs seconds, not the build. It keeps Nix's hello and its last question, so that it can ask the
# next broker when this one dies: Nix fails a command whose store is lost during the handshake, even
# with `fallback = true`, and Nix 2.24 to 2.33 shake hands for each NAR. A NAR goes on where it broke
# off. Any other answer comes whole, so it is asked again only if nothing of it has come. Gives up
# after ten brokers that brought nothing new, or died before their hello: systemd starts no more a
# minute. An operation that the broker doesn't know is a pipe, and ends with it. (socat, which keeps
# nothing, failed most commands in mid-kill, and starts slower.)
relay() {
  if ! [ -x "$nix_lan_perl" ]; then
    find_program perl || return 0
    nix_lan_perl=$nix_lan_found
  fi
  if ! [ -f "/run/nix-lan/$1.up" ]; then
    export NIX_LAN_WAKE=1 # for the next time
    return 0
  fi
  # shellcheck disable=SC2016 # that is perl
  "$nix_lan_perl" -e '
    my $path = pack "Sa108", 1, $ARGV[0];
    my %known = map { $_ => 1 } 1, 11, 19, 26, 29, 31, 32, 38, 43; # protocol/operations.ts
    my ($came, $hello, $question) = ("", "", "");
    my ($greeting, $passed, $skip, $tries, $lost, $pipe, $over, $late) = (0, 0, 0, 0, 0, 0, 0, 0);
    $SIG{PIPE} = "IGNORE";
    fcntl STDOUT, 1031, 1 << 20; # F_SETPIPE_SZ (fcntl(2)): a large NAR takes fewer turns

    # Connects to a broker, and waits so many seconds until it says something.
    sub dial {
      socket(B, 1, 1, 0) && connect(B, $path) or return;
      vec(my $ready = "", fileno B, 1) = 1;
      $late = select($ready, undef, undef, $_[0]) <= 0;
      !$late && sysread(B, $came, 1 << 18);
    }
    sub put {
      for (my $at = 0; $at < length $_[1]; ) { $at += syswrite($_[0], $_[1], 1 << 18, $at) || return }
      1;
    }
    sub ask_another {
      exit if $pipe || $tries++ == 10;
      ($lost, $skip) = (0, $greeting + $passed);
      return if dial(20) && put(\*B, $hello . $question);
      exit if $late;
      select(undef, undef, undef, 0.1);
      ask_another();
    }

    dial(5) or exit 75;
    while (1) {
      if ($skip) { $skip -= length substr $came, 0, $skip, "" }
      if ($came ne "") {
        put(\*STDOUT, $came) or exit;
        ($question eq "" ? $greeting : $passed) += length $came;
        ($came, $tries) = ("", 0);
      }
      my $ready = "";
      vec($ready, 0, 1) = 1 unless $over;
      vec($ready, fileno B, 1) = 1 unless $lost;
      select($ready, undef, undef, undef) > 0 or next;
      if (vec($ready, 0, 1)) {
        sysread(STDIN, my $said, 65536) or do { exit unless $pipe; $over = 1; shutdown(B, 1); next };
        my $new = $said;
        $hello .= substr $new, 0, 32 - length $hello, "" if length $hello < 32;
        if ($new ne "" && !$pipe) {
          ($question, $passed, $tries) = ("", 0, 0) if $passed;
          $question .= $new;
          $pipe = 1 if length $question > 1e6 || length $question >= 8 && !$known{unpack "V", $question};
        }
        $lost || !put(\*B, $said) and ask_another();
      } elsif (!sysread(B, $came, 1 << 18)) {
        my $nar = unpack("V", $question) == 38;
        exit if $pipe || $passed > 1e5 && !$nar;
        if ($passed && !$nar) { $lost = 1 } else { ask_another() }
      }
    }' "/run/nix-lan/$1.sock"
  nix_lan_status=$?
  case $nix_lan_status in
    75 | 126 | 127) ;; # no broker, or a perl that does not start
    *) exit "$nix_lan_status" ;;
  esac
}

# Only as nix.conf has it: anything else is for JavaScript.
case ${1-} in
  /run/nix-lan/*.sock)
    if [ "$#$2" = 2--stdio ]; then
      nix_lan_cache=${1#/run/nix-lan/}
      relay "${nix_lan_cache%.sock}"
    fi
    ;;
esac

nix_lan_for=
for nix_lan_argument in "$@"; do
  case $nix_lan_argument in
    --strict) nix_lan_for=strict ;;
    --help | -h | --version) nix_lan_for=person ;;
    --stdio) nix_lan_for=${nix_lan_for:-nix} ;;
  esac
done

if ! find_runtime; then
  nix_lan_problem='nix-lan-connect: no JavaScript runtime found: install Node 18.19 or later, Deno 2 or Bun'
elif [ "$nix_lan_for" = nix ]; then
  # The runtime may be there and not start: too little memory, too few open files, a library that an
  # update has just replaced. So this shell stays, until the JavaScript says by a signal that it is
  # about to read; before that, nothing of what Nix says has been taken.
  nix_lan_reads=
  trap 'nix_lan_reads=1' USR1
  (NIX_LAN_HEAD=$$ && export NIX_LAN_HEAD && become_javascript "$@")
  nix_lan_code=$?
  case ${nix_lan_reads:-0}$nix_lan_code in 00 | 1*) exit "$nix_lan_code" ;; esac
  nix_lan_problem="nix-lan-connect: $nix_lan_found doesn't start (exit code $nix_lan_code)"
else
  become_javascript "$@"
fi

case $nix_lan_for in
  strict)
    echo "$nix_lan_problem" >&2
    exit 75
    ;;
  person)
    echo "$nix_lan_problem" >&2
    exit 127
    ;;
esac
if ! find_program nix-daemon; then
  echo "$nix_lan_problem; nor is there a nix-daemon to stand in as an empty store" >&2
  exit 127
fi
echo "$nix_lan_problem; this cache counts as empty" >&2
exec "$nix_lan_found" --stdio --store dummy://
