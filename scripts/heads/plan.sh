# shellcheck shell=sh
# Carries out what a head's JavaScript decides. Included by a line `. ./plan.sh`; the other side is
# scripts/system/handover.ts.

# follow_javascript ARGUMENT...: runs the JavaScript with its stdout captured, and with nothing on
# stdin, so it can't take what is meant for the program. If the output begins with the line below,
# it is sh code that sets the environment and ends in exec; it comes from becomeProgram, which
# quotes every word. Anything else is text for the person, and the exit code is the JavaScript's.
follow_javascript() {
  # For a symlink, Bun gives the JavaScript the target's path; nix-lan-run needs the link's name.
  nix_lan_plan=$(NIX_LAN_CALLED_AS=$0 && export NIX_LAN_CALLED_AS && become_javascript "$@" </dev/null)
  nix_lan_code=$?
  case $nix_lan_code$nix_lan_plan in
    '0# nix-lan: become
'*) eval "$nix_lan_plan" ;;
    "$nix_lan_code") ;;
    *) printf '%s\n' "$nix_lan_plan" ;;
  esac
  exit "$nix_lan_code"
}
