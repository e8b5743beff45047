"""C++ that shares the tasks of all stages out among threads.

Every thread has its own pieces of the leaves, and goes over the same ones in all passes of a step:
a second pass on another core, with another cache, takes two to three times as long. A piece is a
run of leaves that are small enough to go through all stages one after the other, or tasks of one
large leaf. There is no barrier between stages: a large leaf goes on when its own tasks of a stage
are done, whoever did the last one computes the values of the next stage. A thread that has nothing
left to do takes tasks from the end of the others' pieces, and gives its core away while there are
none. Results do not depend on who did what: sums are kept per task and combined in their order.
"""

from __future__ import annotations

# What a source defines before: gx_values(A, stage, leaf), gx_task(A, stage, task),
# gx_has_pass(stage), gx_skips(A, stage, leaf), gx_commit_leaf(A, leaf).
TASKS = """\
#if defined(__linux__) && defined(__x86_64__)
#define GX_FUTEX 202
#elif defined(__linux__) && defined(__aarch64__)
#define GX_FUTEX 98
#endif
#ifdef GX_FUTEX
extern "C" long syscall(long, ...) noexcept;
static void gx_sleep(int* word, int seen) { syscall(GX_FUTEX, word, 128, seen, 0, 0, 0); }
static void gx_wake(int* word) { syscall(GX_FUTEX, word, 129, 0x7fffffff, 0, 0, 0); }
#else
extern "C" int sched_yield() noexcept;
static void gx_sleep(int*, int) { sched_yield(); }
static void gx_wake(int*) {}
#endif
#ifdef _OPENMP
extern "C" int omp_get_thread_num() noexcept;
#else
static int omp_get_thread_num() { return 0; }
#endif
GX int gx_see(const int* x) { return __atomic_load_n(x, __ATOMIC_ACQUIRE); }
// Something has become possible, or all is done.
static void gx_signal(gx_sync* S) {
  __atomic_fetch_add(&S->event, 1, __ATOMIC_SEQ_CST);
  if (__atomic_load_n(&S->waiters, __ATOMIC_SEQ_CST)) gx_wake(&S->event);
}
static void gx_wait(gx_sync* S, int seen) {
  for (int k = 0; k < 512; ++k) {
    if (gx_see(&S->event) != seen) return;
#ifdef __x86_64__
    __builtin_ia32_pause();
#endif
  }
  __atomic_fetch_add(&S->waiters, 1, __ATOMIC_SEQ_CST);
  gx_sleep(&S->event, seen);
  __atomic_fetch_sub(&S->waiters, 1, __ATOMIC_SEQ_CST);
}
// Takes one of the numbers that a cursor still holds, the lowest or the highest.
static bool gx_take(gx_u64* cursor, bool lowest, gx_int* taken) {
  gx_u64 old = __atomic_load_n(cursor, __ATOMIC_RELAXED);
  for (;;) {
    const gx_u32 from = (gx_u32)old, to = (gx_u32)(old >> 32);
    if (from >= to) return false;
    const gx_u64 rest = lowest ? old + 1 : old - ((gx_u64)1 << 32);
    if (__atomic_compare_exchange_n(cursor, &old, rest, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
      *taken = lowest ? from : to - 1;
      return true;
    }
  }
}
struct gx_span { gx_int first, last; bool ends; };  // stages of a run, and whether leaves end in it
static void gx_done(const gx_args* A) {
  if (__atomic_sub_fetch(&A->sync->open, 1, __ATOMIC_ACQ_REL) == 0) gx_signal(A->sync);
}
// Stage ``s`` of a large leaf is done: what comes next.
static void gx_advance(const gx_args* A, gx_int l, gx_int s, gx_span R) {
  while (++s <= R.last) {
    if (gx_skips(A, s, l)) continue;
    gx_values(A, s, l);
    if (!gx_has_pass(s)) continue;
    __atomic_store_n(A->ready + l, (int)s + 1, __ATOMIC_RELEASE);
    gx_signal(A->sync);
    return;
  }
  if (R.ends) gx_commit_leaf(A, l);
  __atomic_store_n(A->ready + l, (int)R.last + 2, __ATOMIC_RELEASE);
  gx_done(A);
}
// All stages of some small leaves.
static void gx_whole_leaves(const gx_args* A, const gx_piece* P, gx_span R) {
  for (gx_int l = P->leaf; l < P->leaf_end; ++l) {
    for (gx_int s = R.first; s <= R.last; ++s) {
      if (gx_skips(A, s, l)) continue;
      gx_values(A, s, l);
      if (!gx_has_pass(s)) continue;
      for (gx_int t = A->first_task[l]; t < A->first_task[l + 1]; ++t) gx_task(A, s, t);
    }
    if (R.ends) gx_commit_leaf(A, l);
  }
  gx_done(A);
}
// Does what can be done of a piece: all of it for its owner, one task for others.
static bool gx_do(const gx_args* A, gx_int k, gx_span R, bool own) {
  const gx_piece* const P = A->piece + k;
  gx_int at;
  if (!P->shared) {
    if (!gx_take(A->cursor + R.first * A->pieces + k, true, &at)) return false;
    gx_whole_leaves(A, P, R);
    return true;
  }
  const gx_int l = P->leaf;
  if (!gx_see(A->ready + l)) {
    int none = 0;
    const bool mine = __atomic_compare_exchange_n(
        A->ready + l, &none, -1, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
    if (mine) gx_advance(A, l, R.first - 1, R);
  }
  bool done = false;
  for (;;) {
    const gx_int s = gx_see(A->ready + l) - 1;
    if (s < R.first || s > R.last) return done;
    bool some = false;
    while (gx_take(A->cursor + s * A->pieces + k, own, &at)) {
      gx_task(A, s, P->task + at);
      some = done = true;
      if (__atomic_sub_fetch(A->left + s * A->leaves + l, 1, __ATOMIC_ACQ_REL) == 0)
        gx_advance(A, l, s, R);
      if (!own) return true;
    }
    if (!some) return done;
  }
}
static void gx_work(const gx_args* A, gx_int thread, gx_span R) {
  gx_sync* const S = A->sync;
  for (;;) {
    const int seen = gx_see(&S->event);
    bool done = false;
    for (gx_int k = A->own[thread]; k < A->own[thread + 1]; ++k) done |= gx_do(A, k, R, true);
    for (gx_int other = 1; other < A->threads && !done; ++other) {
      const gx_int from = (thread + other) % A->threads;
      for (gx_int k = A->own[from + 1]; k-- > A->own[from] && !done;) done = gx_do(A, k, R, false);
    }
    if (done) continue;
    if (!gx_see(&S->open)) return;
    gx_wait(S, seen);
  }
}
static void gx_begin(const gx_args* A, gx_span R) {
  A->sync->open = 0;
  for (gx_int k = 0; k < A->pieces; ++k) {
    const gx_piece* const P = A->piece + k;
    const gx_u64 tasks = P->shared ? P->task_end - P->task : 1;
    for (gx_int s = R.first; s <= (P->shared ? R.last : R.first); ++s)
      A->cursor[s * A->pieces + k] = tasks << 32;
    if (P->shared && P->task != A->first_task[P->leaf]) continue;
    ++A->sync->open;
    if (!P->shared) continue;
    A->ready[P->leaf] = 0;
    for (gx_int s = R.first; s <= R.last; ++s)
      A->left[s * A->leaves + P->leaf] =
          (int)(A->first_task[P->leaf + 1] - A->first_task[P->leaf]);
  }
}
// Stages ``first`` to ``last`` of all leaves.
static void gx_share_out(const gx_args* A, gx_span R) {
  gx_begin(A, R);
  #pragma omp parallel num_threads(A->threads) if (A->threads > 1)
  gx_work(A, omp_get_thread_num(), R);
}
"""
