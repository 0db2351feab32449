// A pool of threads that sleep when idle, and a barrier for those that work on one pack.
#pragma once

#include <atomic>
#include <functional>

namespace polyrank {

// Runs work(member) for members 0 to num_threads - 1 at once, the caller being member 0, and
// returns when all are done. One pool serves the process; a call while it is busy waits. After a
// fork the child makes a pool of its own. `work` must not throw.
void run_in_parallel(int num_threads, const std::function<void(int)>& work);

// Waits until all members have arrived. Spins briefly, then yields.
class Barrier {
 public:
  explicit Barrier(int num_members) : num_members_(num_members) {}
  void wait();

 private:
  const int num_members_;
  std::atomic<int> arrived_{0};
  std::atomic<int> round_{0};
};

}  // namespace polyrank
