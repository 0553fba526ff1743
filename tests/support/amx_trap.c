/* Lets a processor without AMX run a program that uses it: where it finds an invalid opcode, what the instruction does is
 * done here, by the C of tiles.h, and the program goes on after it. The bytes are decoded as in Intel's Software
 * Developer's Manual, volume 2. So the tests run the very machine code that was compiled for AMX.
 */
#define _GNU_SOURCE
#include "tiles.h"

#include <signal.h>
#include <ucontext.h>

static struct sigaction before;

/* An instruction with a VEX prefix of three bytes, and its operands. */
typedef struct {
    int prefix, opcode, reg, rm, vvvv;
    bool in_memory;
    char *base;
    int64_t stride; /* the index, scaled */
    int size;       /* in bytes */
} Instruction;

static int64_t read_register(const ucontext_t *context, int number) {
    static const int places[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                   REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    return context->uc_mcontext.gregs[places[number]];
}

/* Returns whether it is one that may belong to AMX: in the second map, of 128 bits, with W = 0. */
static bool decode(const ucontext_t *context, Instruction *of) {
    const uint8_t *start = (const uint8_t *)context->uc_mcontext.gregs[REG_RIP], *at = start + 5;
    if (start[0] != 0xc4 || (start[1] & 31) != 2 || start[2] & 0x84) return false;
    int extend_index = ~start[1] >> 6 & 1, extend_base = ~start[1] >> 5 & 1, mode = start[4] >> 6;
    *of = (Instruction){.prefix = start[2] & 3, .opcode = start[3], .reg = start[4] >> 3 & 7, .rm = start[4] & 7,
                        .vvvv = ~start[2] >> 3 & 15, .in_memory = mode != 3};
    if (of->in_memory) {
        int base = of->rm, index = 4, scale = 0;
        if (base == 4) {
            index = (*at >> 3 & 7) | extend_index << 3, scale = *at >> 6, base = *at & 7;
            at++;
        }
        int32_t shift = 0;
        bool no_base = mode == 0 && base == 5; /* then it is relative to the next instruction, or absolute */
        if (mode == 1) shift = (int8_t)*at++;
        if (mode == 2 || no_base) memcpy(&shift, at, 4), at += 4;
        int64_t address = shift;
        if (!no_base) address += read_register(context, base | extend_base << 3);
        if (no_base && of->rm == 5) address += (int64_t)at;
        of->base = (char *)address;
        of->stride = index == 4 ? 0 : (int64_t)((uint64_t)read_register(context, index) << scale);
    }
    of->size = (int)(at - start);
    return true;
}

enum { NONE, P66, PF3, PF2 };

/* Returns whether it knows the instruction. */
static bool execute(const Instruction *of) {
    if (of->opcode == 0x49 && of->prefix == NONE && of->in_memory && of->reg == 0)
        tiles_configure((const TileConfig *)of->base);
    else if (of->opcode == 0x49 && of->prefix == NONE && !of->in_memory && of->reg == 0 && of->rm == 0)
        tiles_release();
    else if (of->opcode == 0x49 && of->prefix == PF2 && !of->in_memory && of->rm == 0)
        tile_zero(of->reg);
    else if (of->opcode == 0x4b && of->prefix == PF2 && of->in_memory && of->rm == 4)
        tile_load(of->reg, of->base, of->stride);
    else if (of->opcode == 0x4b && of->prefix == PF3 && of->in_memory && of->rm == 4)
        tile_store(of->reg, of->base, of->stride);
    else if (of->opcode == 0x5e && of->prefix == PF2 && !of->in_memory)
        tile_add_signed(of->reg, of->rm, of->vvvv);
    else if (of->opcode == 0x5e && of->prefix == P66 && !of->in_memory)
        tile_add_unsigned(of->reg, of->rm, of->vvvv);
    else
        return false;
    return true;
}

static void handle(int number, siginfo_t *info, void *context) {
    (void)info;
    Instruction instruction;
    if (decode(context, &instruction) && execute(&instruction))
        ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += instruction.size;
    else
        sigaction(number, &before, NULL); /* it comes again, and ends the process */
}

void install(void) {
    struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGILL, &action, &before);
}

void uninstall(void) { sigaction(SIGILL, &before, NULL); }
