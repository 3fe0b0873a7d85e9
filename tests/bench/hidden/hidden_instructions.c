/* Answers the cpuid instructions that hidden_instructions.py replaced by ud2, as a processor with AVX2 alone does. */
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <ucontext.h>
#include <unistd.h>

#define BIT(number) (1u << (number))

static void answer(int signal, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const unsigned char *code = (const unsigned char *)registers[REG_RIP];
    unsigned eax, ebx, ecx, edx, leaf = registers[REG_RAX], subleaf = registers[REG_RCX];
    (void)signal, (void)info;
    if (code[0] != 0x0f || code[1] != 0x0b) {
        _exit(132); /* an instruction that the processor does not know */
    }
    __cpuid_count(leaf, subleaf, eax, ebx, ecx, edx);
    if (leaf == 7 && subleaf == 0) { /* AVX512 and its extensions, AMX */
        ebx &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(28) | BIT(30) | BIT(31));
        ecx &= ~(BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14));
        edx &= ~(BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25));
    }
    if (leaf == 7 && subleaf == 1) { /* AVX-VNNI, AVX512-BF16, AMX-FP16, AVX-IFMA; AVX-VNNI-INT8 and -INT16 */
        eax &= ~(BIT(4) | BIT(5) | BIT(21) | BIT(23));
        edx &= ~(BIT(4) | BIT(5) | BIT(10) | BIT(19));
    }
    registers[REG_RAX] = eax;
    registers[REG_RBX] = ebx;
    registers[REG_RCX] = ecx;
    registers[REG_RDX] = edx;
    registers[REG_RIP] += 2;
}

__attribute__((constructor)) static void install(void) {
    struct sigaction action = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGILL, &action, 0);
}
