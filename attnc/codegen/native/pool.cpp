// A pool of threads that all kernels of a process share. Work items are handed out one at a time, so that uneven ones
// balance; which thread computes an item changes no result. A forked child starts with no threads and makes its own.
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>

typedef void (*Body)(void*, int64_t item, int64_t thread);

struct Job {
  Body body;
  void* context;
  int64_t items;
  int64_t next;
};

struct Pool {
  pthread_mutex_t call, lock;
  pthread_cond_t wake, done;
  Job* job;
  int64_t turn, threads, helpers, running;
};

struct Worker {
  Pool* pool;
  int64_t number;
};

static Pool* pool;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void drain(Job* job, int64_t thread) {
  for (;;) {
    const int64_t item = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED);
    if (item >= job->items) return;
    job->body(job->context, item, thread);
  }
}

static void* work(void* at) {
  Worker worker = *(Worker*)at;
  free(at);
  Pool* own = worker.pool;
  int64_t seen = 0;
  pthread_mutex_lock(&own->lock);
  for (;;) {
    while (own->turn == seen) pthread_cond_wait(&own->wake, &own->lock);
    seen = own->turn;
    Job* job = own->job;
    if (worker.number > own->helpers || !job) continue;
    own->running++;
    pthread_mutex_unlock(&own->lock);
    drain(job, worker.number);
    pthread_mutex_lock(&own->lock);
    if (--own->running == 0) pthread_cond_signal(&own->done);
  }
}

static void make() {
  pool = (Pool*)calloc(1, sizeof(Pool));
  if (!pool) return;
  pthread_mutex_init(&pool->call, 0);
  pthread_mutex_init(&pool->lock, 0);
  pthread_cond_init(&pool->wake, 0);
  pthread_cond_init(&pool->done, 0);
}

static void start() {
  make();
  pthread_atfork(0, 0, make);  // the parent's threads do not exist in a child, and its pool is left alone
}

// Threads beside the caller, `count` at most; fewer where the system gives no more. Called with the lock held.
static int64_t grow(int64_t count) {
  while (pool->threads < count) {
    Worker* worker = (Worker*)malloc(sizeof(Worker));
    if (!worker) break;
    *worker = {pool, pool->threads + 1};
    pthread_t thread;
    if (pthread_create(&thread, 0, work, worker)) {
      free(worker);
      break;
    }
    pthread_detach(thread);
    pool->threads++;
  }
  return pool->threads < count ? pool->threads : count;
}

extern "C" void attnc_parallel(Body body, void* context, int64_t items, int64_t threads) {
  pthread_once(&once, start);
  Job job = {body, context, items, 0};
  if (threads > items) threads = items;
  // A second caller at the same time computes its own items.
  if (threads < 2 || !pool || pthread_mutex_trylock(&pool->call)) return drain(&job, 0);
  pthread_mutex_lock(&pool->lock);
  pool->helpers = grow(threads - 1);
  pool->job = &job;
  pool->turn++;
  pthread_cond_broadcast(&pool->wake);
  pthread_mutex_unlock(&pool->lock);
  drain(&job, 0);
  pthread_mutex_lock(&pool->lock);
  pool->job = 0;
  while (pool->running) pthread_cond_wait(&pool->done, &pool->lock);
  pthread_mutex_unlock(&pool->lock);
  pthread_mutex_unlock(&pool->call);
}
