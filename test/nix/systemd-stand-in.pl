# What systemd does for nix-lan-broker@CACHE, where there is none: holds the socket, starts the
# service at the first connection as a user, with the socket as descriptor 3 (sd_listen_fds(3)) and
# a place to notify (sd_notify(3)); writes /run/nix-lan/CACHE.up when it is ready, removes it when it
# has ended; kills it when, once ready, it doesn't feed the watchdog. The real units are tried in the lab.
#
#     perl systemd-stand-in.pl CACHE UID WATCHDOG-SECONDS PROGRAM [ARGUMENT...]
#
# Says what happens, a line each: "listening", "started PID", "ready PID", "watchdog PID",
# "ended PID". Started as
# `perl systemd-stand-in.pl systemd-notify STATE`, it is the program of that name.
use strict;
use warnings;
use Socket;
use POSIX ();

if ($ARGV[0] eq 'systemd-notify') {
  socket(my $to, AF_UNIX, SOCK_DGRAM, 0) or die;
  send($to, $ARGV[1], 0, sockaddr_un($ENV{NOTIFY_SOCKET})) or die;
  exit 0;
}

my ($cache, $uid, $watchdog, @program) = @ARGV;
my $folder = '/run/nix-lan';
my ($path, $up, $notify) = ("$folder/$cache.sock", "$folder/$cache.up", "$folder/$cache.notify");
$| = 1;
mkdir $folder, 0755;
unlink $path, $up, $notify;

$^F = 20; # the socket has to outlive exec
socket(my $socket, AF_UNIX, SOCK_STREAM, 0) or die "socket: $!";
my $old = umask 0177;
bind($socket, sockaddr_un($path)) or die "$path: $!";
listen($socket, 128) or die "listen: $!";
$^F = 2;
socket(my $heard, AF_UNIX, SOCK_DGRAM, 0) or die;
bind($heard, sockaddr_un($notify)) or die "$notify: $!";
umask $old;
chown $uid, $uid, $path, $notify;

mkdir "$folder/bin", 0755;
open(my $program, '>', "$folder/bin/systemd-notify") or die;
print $program "#!/bin/sh\nexec perl $0 systemd-notify \"\$@\"\n";
close $program;
chmod 0755, "$folder/bin/systemd-notify";

print "listening\n";
my ($pid, $fed) = (0, 0);
$SIG{TERM} = sub {
  kill 'KILL', $pid if $pid;
  unlink $up, $path;
  exit 0;
};

sub start {
  $pid = fork;
  if ($pid == 0) {
    POSIX::dup2(fileno $socket, 3) if fileno $socket != 3;
    $( = $uid; $) = "$uid $uid"; $< = $uid; $> = $uid;
    my %own = (LISTEN_FDS => 1, LISTEN_PID => $$, NOTIFY_SOCKET => $notify, PATH => "$folder/bin:$ENV{PATH}");
    $own{WATCHDOG_USEC} = $watchdog * 1e6 if $watchdog > 0;
    delete @ENV{qw(HOME USER XDG_RUNTIME_DIR)};
    @ENV{keys %own} = values %own;
    chdir '/';
    open(STDIN, '<', '/dev/null');
    open(STDOUT, '>&', \*STDERR);
    exec @program or POSIX::_exit(127);
  }
  $fed = 0;
  print "started $pid\n";
}

sub ended {
  return if $pid == 0 or waitpid($pid, POSIX::WNOHANG) == 0;
  unlink $up;
  print "ended $pid\n";
  $pid = 0;
}

while (1) {
  my $in = '';
  vec($in, fileno $heard, 1) = 1;
  vec($in, fileno $socket, 1) = 1 if $pid == 0;
  my $found = select($in, undef, undef, 0.02);
  ended();
  next if $found <= 0;
  if (vec($in, fileno $heard, 1)) {
    recv($heard, my $state, 1000, 0);
    $fed = time;
    if ($state =~ /READY=1/ and $pid) {
      open(my $file, '>', $up) or die;
      print "ready $pid\n";
    }
  }
  start() if $pid == 0 and vec($in, fileno $socket, 1);
} continue {
  if ($pid and $fed and $watchdog > 0 and time - $fed > $watchdog) {
    print "watchdog $pid\n";
    kill 'KILL', $pid;
    $fed = time + 5;
  }
}
