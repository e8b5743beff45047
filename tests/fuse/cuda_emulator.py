"""Run generated CUDA C++ on the CPU: threads of a block are fibers that switch at barriers.

Warps wait for one another only at barriers of the block; shuffles and ballots need all 32 lanes.
"""

from __future__ import annotations

import ctypes
import functools
import re

import torch

from gradtx.fuse.ir.cache import library

_BEFORE = """\
#include <math.h>
#include <setjmp.h>
#include <string.h>
#include <ucontext.h>
#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __grid_constant__
#define __launch_bounds__(n)
#define __builtin_assume(x)
static struct { unsigned x; } threadIdx, blockIdx, blockDim;
enum state { running, at_warp, at_block, finished };
static enum state states[256];
static ucontext_t outside, fiber[256];
static jmp_buf scheduler, resume[256];
static bool started[256];
static char stack[256][1 << 14];
static long long lanes[256];
static void (*body)(const void*);
static const void* given;
static void rest(enum state where) {
  const unsigned t = threadIdx.x;
  states[t] = where;
  if (!_setjmp(resume[t])) _longjmp(scheduler, 1);
}
static void start() { body(given); rest(finished); }
static void __syncthreads() { rest(at_block); }
template <typename T> static T exchange(T x, int source) {
  memcpy(&lanes[threadIdx.x], &x, sizeof x);
  rest(at_warp);
  memcpy(&x, &lanes[threadIdx.x / 32 * 32 + source], sizeof x);
  rest(at_warp);
  return x;
}
template <typename T> static T __shfl_sync(unsigned, T x, int source) {
  return exchange(x, source % 32);
}
template <typename T> static T __shfl_xor_sync(unsigned, T x, int mask) {
  return exchange(x, threadIdx.x % 32 ^ mask);
}
static unsigned __ballot_sync(unsigned, int x) {
  unsigned votes = 0;
  lanes[threadIdx.x] = x != 0;
  rest(at_warp);
  for (int k = 0; k < 32; ++k) votes |= (unsigned)lanes[threadIdx.x / 32 * 32 + k] << k;
  rest(at_warp);
  return votes;
}
static float __uint_as_float(unsigned x) { float y; memcpy(&y, &x, 4); return y; }
static unsigned __float_as_uint(float x) { unsigned y; memcpy(&y, &x, 4); return y; }
static double __longlong_as_double(long long x) { double y; memcpy(&y, &x, 8); return y; }
"""
_AFTER = """\
static void go_on(int t) {
  threadIdx.x = t;
  if (_setjmp(scheduler)) return;
  if (started[t]) _longjmp(resume[t], 1);
  started[t] = true;
  setcontext(&fiber[t]);
}
static bool release(enum state where, int first, int stop) {
  for (int t = first; t < stop; ++t) if (states[t] != where) return false;
  for (int t = first; t < stop; ++t) states[t] = running;
  return true;
}
static int run_block(int threads, bool backwards) {
  for (int t = 0; t < threads; ++t) {
    states[t] = running;
    started[t] = false;
    getcontext(&fiber[t]);
    fiber[t].uc_stack.ss_sp = stack[t];
    fiber[t].uc_stack.ss_size = sizeof stack[t];
    makecontext(&fiber[t], start, 0);
  }
  for (;;) {
    int done = 0;
    for (int i = 0; i < threads; ++i) {
      const int t = backwards ? threads - 1 - i : i;
      if (states[t] == running) go_on(t);
      done += states[t] == finished;
    }
    if (done == threads) return 0;
    bool moves = release(at_block, 0, threads);
    for (int w = 0; w + 32 <= threads; w += 32) moves |= release(at_warp, w, w + 32);
    if (!moves) return 1;
  }
}
extern "C" int emulate(const char* name, int blocks, int threads, const void* args, int backwards) {
  body = find(name);
  if (!body || threads > 256 || threads & (threads - 1)) return 2;
  given = args;
  blockDim.x = threads;
  for (int b = 0; b < blocks; ++b) {
    blockIdx.x = backwards ? blocks - 1 - b : b;
    if (int failure = run_block(threads, backwards)) return failure;
  }
  return 0;
}
"""
_FLAGS = ("-O1", "-std=c++17", "-w", "-shared", "-fPIC", "-fno-strict-aliasing")


class Emulated:
    """A translation unit, compiled for the CPU.

    Attributes:
        launches: names of the kernels that ran.
        backwards: run blocks and threads from last to first.
    """

    def __init__(self, source: str) -> None:
        kernels = re.findall(r"GX_KERNEL (\w+)\(const __grid_constant__ (\w+)", source)
        calls = [
            f"static void run_{k}(const void* a) {{ {k}(*(const {kind}*)a); }}"
            for k, kind in kernels
        ]
        cases = [f'if (!strcmp(name, "{k}")) return run_{k};' for k, _ in kernels]
        find = ["static void (*find(const char* name))(const void*) {", *cases, "return 0; }"]
        text = "\n".join([_BEFORE, source, *calls, *find, _AFTER])
        self._code = library(text, ("emulate",), _FLAGS)
        self.launches: list[str] = []
        self.backwards = False

    def launch(self, kernel: str, blocks: int, threads: int, args: ctypes.Structure) -> None:
        """Run a kernel to its end."""
        self.launches.append(kernel)
        code = self._code.emulate(
            kernel.encode(), blocks, threads, ctypes.byref(args), int(self.backwards)
        )
        assert code == 0, f"{kernel}: {('threads part at a barrier', 'no such launch')[code - 1]}"


@functools.cache
def load(source: str, device: torch.device) -> Emulated:
    """In place of ``cuda_launch.load``."""
    return Emulated(source)
