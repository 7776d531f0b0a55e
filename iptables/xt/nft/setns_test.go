package nft_test

import "golang.org/x/sys/unix"

const sysSetns = unix.SYS_SETNS
