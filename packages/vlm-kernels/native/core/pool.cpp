#include "core/pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace vlm {
namespace {

// How long an idle worker looks for the next job before it sleeps: ops of one step follow each other within this time,
// and a wake-up costs several times as much on a shared machine.
constexpr auto kSpin = std::chrono::microseconds(60);

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

struct Job {
  size_t count = 0;
  void (*body)(void*, size_t) = nullptr;
  void* context = nullptr;
  std::atomic<size_t> next{0};
  int helpers = 0;  // workers inside the job; guarded by the pool's mutex
  int limit = 0;    // workers that may join

  void work() {
    for (size_t block; (block = next.fetch_add(1, std::memory_order_relaxed)) < count;) body(context, block);
  }
  bool open() const { return helpers < limit && next.load(std::memory_order_relaxed) < count; }
};

class Pool {
 public:
  ~Pool() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (auto& worker : workers_) worker.join();
  }

  void run(Job& job) {
    {
      std::lock_guard lock(mutex_);
      while (static_cast<int>(workers_.size()) < job.limit) workers_.emplace_back([this] { serve(); });
      jobs_.push_back(&job);
      posted_.fetch_add(1, std::memory_order_release);
    }
    if (sleeping_.load(std::memory_order_seq_cst) > 0) wake_.notify_all();
    job.work();
    std::unique_lock lock(mutex_);
    jobs_.erase(std::find(jobs_.begin(), jobs_.end(), &job));
    left_.wait(lock, [&] { return job.helpers == 0; });
  }

 private:
  Job* find() {
    for (Job* job : jobs_) {
      if (job->open()) return job;
    }
    return nullptr;
  }

  void serve() {
    std::unique_lock lock(mutex_);
    while (!stop_) {
      if (Job* job = find()) {
        ++job->helpers;
        lock.unlock();
        job->work();
        lock.lock();
        if (--job->helpers == 0) left_.notify_all();
        continue;
      }
      const auto seen = posted_.load(std::memory_order_acquire);
      lock.unlock();
      const auto give_up = std::chrono::steady_clock::now() + kSpin;
      bool posted = false;
      while (!posted && std::chrono::steady_clock::now() < give_up) {
        for (int i = 0; i < 16 && !posted; ++i) {
          posted = posted_.load(std::memory_order_acquire) != seen;
          if (!posted) pause();
        }
      }
      lock.lock();
      if (posted_.load(std::memory_order_acquire) == seen && !stop_) {
        sleeping_.fetch_add(1, std::memory_order_seq_cst);
        wake_.wait(lock, [&] { return stop_ || posted_.load(std::memory_order_acquire) != seen; });
        sleeping_.fetch_sub(1, std::memory_order_seq_cst);
      }
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, left_;
  std::vector<Job*> jobs_;
  std::vector<std::thread> workers_;
  std::atomic<uint64_t> posted_{0};
  std::atomic<int> sleeping_{0};
  bool stop_ = false;
};

std::atomic<Pool*> g_pool{nullptr};
std::mutex g_pool_mutex;
std::atomic<int> g_threads{0};

Pool& pool() {
  if (Pool* existing = g_pool.load(std::memory_order_acquire)) return *existing;
  std::lock_guard lock(g_pool_mutex);
  if (Pool* existing = g_pool.load(std::memory_order_acquire)) return *existing;
  static const int registered = pthread_atfork(
      [] { g_pool_mutex.lock(); }, [] { g_pool_mutex.unlock(); },
      [] {
        // The workers stayed in the parent: the child forgets them (their pool cannot be destroyed) and starts anew.
        g_pool.store(nullptr, std::memory_order_release);
        g_pool_mutex.unlock();
      });
  (void)registered;
  // Never destroyed: a thread of another library may still compute while the process exits.
  Pool* made = new Pool;
  g_pool.store(made, std::memory_order_release);
  return *made;
}

std::string read_file(const std::string& path) {
  std::string text;
  if (FILE* file = std::fopen(path.c_str(), "r")) {
    char buffer[4096];
    text.assign(buffer, std::fread(buffer, 1, sizeof buffer, file));
    std::fclose(file);
  }
  return text;
}

// Cores by quota / period of the process's cgroup and its parents; a large number where there is no limit.
double cgroup_cores() {
  double cores = 1e9;
  const std::string membership = read_file("/proc/self/cgroup");
  std::vector<std::string> folders = {"/sys/fs/cgroup"};
  if (const auto at = membership.find("0::/"); at != std::string::npos) {
    const std::string path = membership.substr(at + 3, membership.find('\n', at) - at - 3);
    for (size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
      folders.push_back("/sys/fs/cgroup" + path.substr(0, end));
      if (end == std::string::npos) break;
    }
  }
  for (const auto& folder : folders) {
    long quota = 0, period = 0;
    if (std::sscanf(read_file(folder + "/cpu.max").c_str(), "%ld %ld", &quota, &period) == 2 && period > 0 && quota > 0) {
      cores = std::min(cores, double(quota) / double(period));
    }
  }
  long quota = 0, period = 0;
  if (std::sscanf(read_file("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").c_str(), "%ld", &quota) == 1 &&
      std::sscanf(read_file("/sys/fs/cgroup/cpu/cpu.cfs_period_us").c_str(), "%ld", &period) == 1 && quota > 0 && period > 0) {
    cores = std::min(cores, double(quota) / double(period));
  }
  return cores;
}

}  // namespace

int usable_cores() {
  int cores = static_cast<int>(std::thread::hardware_concurrency());
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) cores = CPU_COUNT(&set);
  const double quota = cgroup_cores();
  if (quota < cores) cores = static_cast<int>(std::ceil(quota));
  return std::max(cores, 1);
}

int num_threads() {
  int count = g_threads.load(std::memory_order_relaxed);
  if (count == 0) {
    count = usable_cores();
    g_threads.store(count, std::memory_order_relaxed);
  }
  return count;
}

void set_num_threads(int count) { g_threads.store(std::max(count, 1), std::memory_order_relaxed); }

void parallel(size_t count, void (*body)(void*, size_t), void* context) {
  const int helpers = static_cast<int>(std::min<size_t>(num_threads(), count)) - 1;
  if (helpers < 1) {
    for (size_t block = 0; block < count; ++block) body(context, block);
    return;
  }
  Job job;
  job.count = count, job.body = body, job.context = context, job.limit = helpers;
  pool().run(job);
}

}  // namespace vlm
