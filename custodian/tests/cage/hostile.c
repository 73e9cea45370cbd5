/* A hostile "PKCS#11 module": when it is loaded, it tries to get out, and writes down what came of each try. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static FILE *report;

static void say(const char *what, long result) {
  fprintf(report, "%s %s\n", what, result >= 0 ? "done" : strerrorname_np(errno));
}

static void try_connect(const char *what, const char *port) {
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in there = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
  inet_pton(AF_INET, "127.0.0.1", &there.sin_addr);
  say(what, fd < 0 ? -1 : connect(fd, (struct sockaddr *)&there, sizeof there));
}

static void try_socket(const char *what, int family, int type, int protocol) {
  say(what, socket(family, type, protocol));
}

static void try_program(const char *what, long number) {
  char *args[] = {"true", NULL}, *none[] = {NULL};
  pid_t child = fork();
  if (child == 0) {
    if (number == SYS_execveat)
      syscall(number, AT_FDCWD, "/bin/true", args, none, 0);
    else
      syscall(number, "/bin/true", args, none);
    _exit(errno);
  }
  int status = 0;
  waitpid(child, &status, 0);
  errno = WEXITSTATUS(status);
  say(what, errno == 0 ? 0 : -1);
}

static void *in_a_thread(void *ignored) {
  try_socket("socket of a thread", AF_INET, SOCK_STREAM, 0);
  return ignored;
}

static void *idle(void *ignored) { return ignored; }

__attribute__((constructor)) static void loaded(void) {
  const char *outside = getenv("HOSTILE_OUTSIDE"), *folder = getenv("HOSTILE_FOLDER");
  char path[4096];
  report = fopen(getenv("HOSTILE_REPORT"), "w");
  if (!report) return;
  setvbuf(report, NULL, _IOLBF, 0);
  say("write inside", 0);

  try_connect("connect", getenv("HOSTILE_PORT"));
  try_connect("connect elsewhere", getenv("HOSTILE_OTHER_PORT"));
  try_socket("udp", AF_INET, SOCK_DGRAM, 0);
  try_socket("udp6", AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  try_socket("mptcp", AF_INET, SOCK_STREAM, 262);
  try_socket("netlink", AF_NETLINK, SOCK_RAW, 0);
  try_socket("vsock", AF_VSOCK, SOCK_STREAM, 0);
  try_socket("unix", AF_UNIX, SOCK_STREAM, 0);
  pthread_t thread;
  errno = pthread_create(&thread, NULL, in_a_thread, NULL);
  say("thread", errno == 0 ? pthread_join(thread, NULL) : -1);

  try_program("execve", SYS_execve);
  try_program("execveat", SYS_execveat);
#ifdef __x86_64__
  try_program("execve by x32", 0x40000000 | 520);
#endif

  say("write outside", open(outside, O_WRONLY));
  say("empty outside", open(outside, O_RDONLY | O_TRUNC));
  say("truncate outside", truncate(outside, 0));
  say("chmod outside", chmod(outside, 0666));
  say("fchmod outside", fchmod(open(outside, O_RDONLY), 0666));
  snprintf(path, sizeof path, "%s/made", folder);
  say("make a file outside", open(path, O_WRONLY | O_CREAT, 0600));
  snprintf(path, sizeof path, "%s/linked", folder);
  say("link outside", link(outside, path));
  say("rename outside", rename(outside, path) < 0 ? -1 : rename(path, outside));
  say("unlink outside", unlink(outside));
  say("read outside", open(folder, O_RDONLY | O_DIRECTORY));

  say("signal", kill(getppid(), 0));
  char byte;
  struct iovec here = {&byte, 1}, there = {(void *)loaded, 1};
  say("read memory of another", process_vm_readv(getppid(), &here, 1, &there, 1, 0));
  say("trace another", ptrace(PTRACE_SEIZE, getppid(), 0, 0));
  say("io_uring", syscall(SYS_io_uring_setup, 1, calloc(1, 120)));
  say("bpf", syscall(SYS_bpf, 0, calloc(1, 120), 120));
  say("keyring", syscall(SYS_add_key, "user", "hostile", "x", 1, -3));
  say("clone3", syscall(SYS_clone3, NULL, 0));
  say("user namespace", unshare(CLONE_NEWUSER));
  static char stack[65536];
  say("user namespace by clone", clone((int (*)(void *))idle, stack + sizeof stack, CLONE_NEWUSER | SIGCHLD, NULL));
}

unsigned long C_GetFunctionList(void **list) {
  *list = NULL;
  return 5; /* CKR_GENERAL_ERROR */
}
