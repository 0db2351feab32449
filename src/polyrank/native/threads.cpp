#include "threads.h"

#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#ifdef _WIN32
#include <process.h>
#define polyrank_pid _getpid
#else
#include <unistd.h>
#define polyrank_pid getpid
#endif

namespace polyrank {
namespace {

constexpr int kSpins = 4096;  // some tens of microseconds

inline void relax() {
#if defined(__x86_64__) || defined(_M_X64)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

class Pool {
 public:
  Pool() : pid(polyrank_pid()) {}

  void run(int num_threads, const std::function<void(int)>& work) {
    std::lock_guard<std::mutex> one_at_a_time(busy_);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      while (static_cast<int>(threads_.size()) < num_threads - 1) {
        int member = static_cast<int>(threads_.size()) + 1;
        // a new thread waits for the round after the one that is over
        threads_.emplace_back([this, member, seen = round_] { serve(member, seen); });
      }
      work_ = &work;
      num_members_ = num_threads;
      left_ = num_threads - 1;
      ++round_;
    }
    wake_.notify_all();
    work(0);
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return left_ == 0; });
    work_ = nullptr;
  }

  const int pid;

 private:
  void serve(int member, unsigned seen) {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return round_ != seen; });
      seen = round_;
      if (member >= num_members_) continue;
      const std::function<void(int)>* work = work_;
      lock.unlock();
      (*work)(member);
      lock.lock();
      if (--left_ == 0) done_.notify_one();
    }
  }

  std::mutex busy_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::vector<std::thread> threads_;
  const std::function<void(int)>* work_ = nullptr;
  int num_members_ = 0;
  int left_ = 0;
  unsigned round_ = 0;
};

// Never destroyed: its threads sleep until the process ends, and the threads of a pool from
// before a fork do not exist in the child, so nothing could be joined.
Pool& pool() {
  static std::mutex mutex;
  static Pool* current = nullptr;
  std::lock_guard<std::mutex> lock(mutex);
  if (current == nullptr || current->pid != polyrank_pid()) current = new Pool;
  return *current;
}

}  // namespace

void run_in_parallel(int num_threads, const std::function<void(int)>& work) {
  if (num_threads <= 1) {
    work(0);
  } else {
    pool().run(num_threads, work);
  }
}

void Barrier::wait() {
  int round = round_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) == num_members_ - 1) {
    arrived_.store(0, std::memory_order_relaxed);
    round_.store(round + 1, std::memory_order_release);
    return;
  }
  for (int spins = 0; round_.load(std::memory_order_acquire) == round; ++spins) {
    if (spins < kSpins) {
      relax();
    } else {
      std::this_thread::yield();
    }
  }
}

}  // namespace polyrank
