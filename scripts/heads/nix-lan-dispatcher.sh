#!/bin/sh
# The head of nix-lan-dispatcher. NetworkManager runs it as root for everything that happens to a
# network, one script after another, each holding up the next: so this one decides here whether the
# event matters, and does the rest in the background. (nm-dispatcher waits for this process only,
# and its service leaves what it started alone: KillMode=process, NetworkManager 1.30 to 1.58.)
# Exits 0 whatever happens. Nothing here reads, writes or follows anything of the user's: the user's
# systemd is asked as that user. Called in any other way, this becomes its JavaScript,
# scripts/bin/nix-lan-dispatcher.ts; for an event, that is only asked whose boxes these are, and
# only when the configuration has changed since last time.

# An event: the interface, and the action (NetworkManager-dispatcher(8)).
if [ $# -eq 2 ]; then
  # Exit 0 even when fork fails, which makes dash exit with 2.
  trap 'exit 0' EXIT
  case $1 in lo) exit 0 ;; esac
  case $2 in
    # A network, a VPN or an address has come or gone; or (connectivity-change) the network now
    # leads somewhere; or (dns-change, which may come after `up`) names now resolve that didn't.
    up | down | vpn-up | vpn-down | dhcp4-change | dhcp6-change | reapply | connectivity-change | dns-change) ;;
    # hostname: our own name. pre-up, pre-down and vpn-pre-*: too early, and NetworkManager waits
    # for them. device-add and device-delete: expect an answer on stdout. Whatever later versions
    # add: the timer notices what it changes.
    *) exit 0 ;;
  esac
  LC_ALL=C
  PATH=${PATH:+$PATH:}/usr/local/bin:/usr/bin:/bin:/run/current-system/sw/bin:/nix/var/nix/profiles/default/bin:/usr/local/sbin:/usr/sbin:/sbin
  export LC_ALL PATH
fi

. ./runtime.sh

# say TEXT: one line, to the person if there is one, else to the journal, tagged with our name.
say() {
  if [ -t 2 ] || ! logger -t nix-lan-dispatcher -- "$1" 2>/dev/null; then printf 'nix-lan-dispatcher: %.500s\n' "$1" >&2; fi
}

# read_owner: sets nix_lan_owner to "USER UID", or says why not and fails. Parsing and vetting the
# configuration is left to JavaScript, which takes a tenth of a second or more; it leaves its
# answer, with the text it was read from, in a directory of root's.
read_owner() {
  nix_lan_break='
'
  nix_lan_config=$(cat /etc/nix-lan/config.toml 2>/dev/null)
  nix_lan_known=$(cat /run/nix-lan/dispatcher 2>/dev/null)
  nix_lan_owner=${nix_lan_known%%"$nix_lan_break"*}
  if [ -n "$nix_lan_config" ] && [ "$nix_lan_known" = "$nix_lan_owner$nix_lan_break$nix_lan_config" ]; then return 0; fi
  if ! find_runtime; then
    say 'no JavaScript runtime found: install Node 18.19 or later, Deno 2 or Bun'
    return 1
  fi
  nix_lan_owner=$(timeout -s KILL 20 /bin/sh "$0" --owner </dev/null 2>/dev/null)
  case $? in
    0) return 0 ;;
    2) say "$nix_lan_owner" ;;
    *) say "$nix_lan_found failed (nix-lan-dispatcher --owner says why)" ;;
  esac
  return 1
}

# ask_user_systemd USER UID: restarts the check, since a start is lost while a check runs, which may
# have looked too early. Exit 3: this user has no systemd. Everything is done as the user, even the
# test for the socket, since users can mount things on their /run/user/UID. Not by runuser, whose
# PAM session writes two lines into the journal each time. What NetworkManager has learnt from a
# network stays out of the environment.
ask_user_systemd() {
  nix_lan_group=$(id -g -- "$1" 2>/dev/null) || return
  # shellcheck disable=SC2016 # for the other shell
  timeout -s KILL 5 setpriv --reuid="$2" --regid="$nix_lan_group" --clear-groups env -i PATH="$PATH" XDG_RUNTIME_DIR="/run/user/$2" \
    /bin/sh -c '[ -S "$XDG_RUNTIME_DIR/systemd/private" ] || exit 3
      exec systemctl --user restart --no-block nix-lan-check.service' </dev/null >/dev/null 2>&1
}

# handle_event INTERFACE ACTION
handle_event() {
  read_owner || return
  nix_lan_user=${nix_lan_owner% *}
  nix_lan_uid=${nix_lan_owner##* }
  ask_user_systemd "$nix_lan_user" "$nix_lan_uid"
  nix_lan_code=$?
  case $nix_lan_code in
    0) say "$2${1:+ of $1}: $nix_lan_user's systemd checks the boxes" ;;
    3) ;; # not logged in, and no lingering: nobody uses a tunnel
    5) say "$2${1:+ of $1}: $nix_lan_user's systemd has no nix-lan-check.service" ;;
    124 | 137) say "$2${1:+ of $1}: $nix_lan_user's systemd did not answer within 5 s" ;;
    *) say "$2${1:+ of $1}: could not ask $nix_lan_user's systemd (exit $nix_lan_code)" ;;
  esac
}

if [ $# -eq 2 ]; then
  if [ -t 2 ]; then
    handle_event "$1" "$2"
  else
    # stdout: nm-dispatcher may wait until it is closed.
    handle_event "$1" "$2" </dev/null >/dev/null &
  fi
  exit 0
fi

if find_runtime; then become_javascript "$@"; fi
echo 'nix-lan-dispatcher: no JavaScript runtime found: install Node 18.19 or later, Deno 2 or Bun' >&2
exit 127
