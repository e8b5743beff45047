// How CPU kernels are compiled for several instruction sets.
#pragma once

// Every instruction set gives the same bits: nothing here is contracted or reassociated.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#if __GNUC__ >= 12
#define GX_CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define GX_CLONES __attribute__((target_clones("default", "avx2", "avx512f")))
#endif
#else
#define GX_CLONES
#endif
#define GX_INLINE inline __attribute__((always_inline))
