/* What the hardware can do at most: independent chains of multiply-adds that never leave the registers.
 *
 * Compiled by roof.py with -DREAL=float|double and -DBYTES=16|32|64, the width of a vector. Twelve chains hide the
 * latency of every current x86-64 and fit the 16 registers of x86-64-v3. Without FMA (x86-64 baseline) it is a
 * multiplication and an addition, which is the roof there. */
#define CHAINS 12
#define LANES ((int)(BYTES / sizeof(REAL)))

typedef REAL vec __attribute__((vector_size(BYTES)));

/* Runs `n` steps of all chains; returns how many flops these were, or a negative number that is never seen: it
 * depends on every chain, so the compiler cannot drop one. */
double roof(long n)
{
    vec acc[CHAINS], factor, term;
    for (int i = 0; i < LANES; i++) {
        factor[i] = (REAL)0.999;
        term[i] = (REAL)0.001;
        for (int c = 0; c < CHAINS; c++)
            acc[c][i] = (REAL)(c + i) / 100;
    }
    for (long step = 0; step < n; step++) {
#pragma GCC unroll 12
        for (int c = 0; c < CHAINS; c++)
            acc[c] = acc[c] * factor + term;
    }
    REAL sum = 0;
    for (int c = 0; c < CHAINS; c++)
        for (int i = 0; i < LANES; i++)
            sum += acc[c][i];
    return sum < 0 ? -1.0 : 2.0 * CHAINS * LANES * n;
}
