// Loaded into user-mode Linux with LD_PRELOAD, this makes it run on processors
// whose register state is larger than the kernel was compiled for: those with
// AMX, as of 2026. Linux takes extended registers of another process only whole
// (x86 xstateregs_set: EFAULT otherwise), and user-mode Linux before 6.13 hands
// it the 2696 bytes that AVX-512 needs. The rest of the state is what no guest
// process can have touched, so it is filled up with zeroes and declared unused.
// On other processors every call is passed on as it is.
#include <elf.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { PEEK_FIRST = 1, PEEK_LAST = 3, GETREGSET = 0x4204, SETREGSET = 0x4205 };

// The header of an XSAVE area is at byte 512 and begins with the bitmap of the
// components in use. Those up to 9 (PKRU) end within 2696 bytes.
enum { XSTATE_BV = 512, MAX_STATE = 1 << 16 };
static const uint64_t known_components = 0x3ff;

static char whole[MAX_STATE] __attribute__((aligned(64)));
static size_t whole_size; // what Linux wants; 0 before it was asked

static size_t wanted_size(long pid)
{
	if (whole_size == 0) {
		struct iovec all = { whole, sizeof whole };
		if (syscall(SYS_ptrace, GETREGSET, pid, NT_X86_XSTATE, &all) == 0)
			whole_size = all.iov_len;
		memset(whole, 0, sizeof whole);
	}
	return whole_size;
}

static long set_xstate(long pid, const struct iovec *part)
{
	uint64_t in_use;
	struct iovec all = { whole, wanted_size(pid) };

	memcpy(whole, part->iov_base, part->iov_len);
	memcpy(&in_use, whole + XSTATE_BV, sizeof in_use);
	in_use &= known_components;
	memcpy(whole + XSTATE_BV, &in_use, sizeof in_use);
	return syscall(SYS_ptrace, SETREGSET, pid, NT_X86_XSTATE, &all);
}

long ptrace(int request, ...)
{
	va_list args;
	va_start(args, request);
	long pid = va_arg(args, int);
	void *addr = va_arg(args, void *);
	void *data = va_arg(args, void *);
	va_end(args);

	if (request >= PEEK_FIRST && request <= PEEK_LAST) { // the C library returns what the kernel stores
		long word;
		long err = syscall(SYS_ptrace, request, pid, addr, &word);
		return err < 0 ? err : word;
	}
	if (request == SETREGSET && (intptr_t)addr == NT_X86_XSTATE) {
		const struct iovec *part = data;
		if (part->iov_len > XSTATE_BV + sizeof(uint64_t) && part->iov_len < wanted_size(pid))
			return set_xstate(pid, part);
	}
	return syscall(SYS_ptrace, request, pid, addr, data);
}
