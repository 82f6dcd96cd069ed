// A child that only waits: it tells when its first instruction ran, then nothing. Told is a datagram of three native words, its number and
// the time (CLOCK_MONOTONIC, seconds and nanoseconds), to the abstract address "wk-bench-trivial". SIGTERM ends it by default.

    .section .note.GNU-stack,"",@progbits
    .bss
    .balign 8
stamp:
    .skip 8                     // number of the process
time:
    .skip 16

    .data
where:
    .short 1                    // AF_UNIX
    .ascii "\0wk-bench-trivial"
    .set where_size, . - where

    .text
    .globl _start
_start:
    mov $228, %eax              // clock_gettime
    mov $1, %edi                // CLOCK_MONOTONIC
    lea time(%rip), %rsi
    syscall
    mov $39, %eax               // getpid
    syscall
    mov %rax, stamp(%rip)
    mov $41, %eax               // socket
    mov $1, %edi                // AF_UNIX
    mov $2, %esi                // SOCK_DGRAM
    xor %edx, %edx
    syscall
    mov %eax, %edi
    mov $44, %eax               // sendto
    lea stamp(%rip), %rsi
    mov $24, %edx
    xor %r10d, %r10d
    lea where(%rip), %r8
    mov $where_size, %r9d
    syscall
wait:
    mov $34, %eax               // pause
    syscall
    jmp wait
