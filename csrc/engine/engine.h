// Batches on native threads: plan and render without the interpreter.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "engine/storage_wait.h"
#include "plan/label_table.h"
#include "plan/labels.h"
#include "plan/plan.h"
#include "plan/recipe.h"
#include "render/render.h"

namespace yolodata {

struct Sample {
  Plan plan;
  Labels labels;
};

// Where an image's pixels are; must stay valid until the job is done.
using PixelLookup = std::function<const std::uint8_t*(std::int64_t image)>;

// One batch on its way. Every sample is one task; tasks of later jobs follow without a barrier.
//
// Where the engine's threads run on several NUMA nodes, a batch is divided among these: consecutive
// samples for each. Threads take tasks of their own part, in the oldest job that has any left, and
// only then others'. So they touch the memory of the same pictures of each batch, which is near
// them when it is used again.
class Job {
 public:
  // Plans `ids` unless `samples` already hold recipes. Renders where `out` is given: uint8
  // (B, 3, H, W), contiguous. Where `render_tasks` are given instead, another renderer will read
  // those; what `pixels` finds may then be addresses that only a device can read, and masks are
  // left to `move_masks`. `owner` keeps alive whatever the pointers point to.
  struct Request {
    std::vector<SampleId> ids;
    std::vector<Sample> samples;
    PlanConfig config{};
    std::shared_ptr<const LabelTable> table;
    PixelLookup pixels;
    std::uint8_t* out = nullptr;
    RenderTask* render_tasks = nullptr;
    std::shared_ptr<void> owner;
  };

  explicit Job(Request request);

  bool wait(double seconds);  // negative: for ever; true when done; rethrows a task's exception
  bool done() const;
  void cancel();  // tasks that have not begun are dropped

  // Samples that were begun by threads of another node than theirs, so far.
  std::size_t taken_over() const { return taken_over_.load(); }

  // After wait().
  const std::vector<Sample>& samples() const { return request_.samples; }
  std::int32_t keypoint_count() const {
    return request_.table == nullptr ? 0 : request_.table->keypoint_count;
  }
  double plan_seconds() const { return 1e-9 * static_cast<double>(plan_ns_.load()); }
  double render_seconds() const { return 1e-9 * static_cast<double>(render_ns_.load()); }
  // In which rendering stood still for pages of mapped files; not part of `render_seconds`. Nothing
  // where the system does not tell, or nothing is rendered here.
  std::optional<double> storage_seconds() const {
    if (request_.out == nullptr || !StorageWait::known()) return std::nullopt;
    return 1e-9 * static_cast<double>(storage_ns_.load());
  }

 private:
  friend class Engine;
  struct Part {
    std::atomic<std::size_t> next{0};
    std::size_t end = 0;
  };
  void divide(const std::vector<int>& threads);    // of each node; before any of them takes a task
  bool take(std::size_t node, std::size_t& task);  // false: no task of this part is left to begin
  bool take_over(std::size_t& task);               // false: no task at all is left
  bool begun() const;                              // no task is left to begin
  void run(std::size_t task);
  void finish(std::size_t tasks);

  Request request_;
  std::size_t count_;
  std::vector<Part> parts_;
  std::atomic<std::size_t> taken_over_{0};
  std::atomic<std::int64_t> plan_ns_{0}, render_ns_{0}, storage_ns_{0};
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::size_t finished_ = 0;
  std::exception_ptr error_;
};

class Engine {
 public:
  // `cores` are those that each thread is kept on; none: threads run where the system puts them.
  // Threads with the same cores are on one node.
  explicit Engine(int threads, const std::vector<std::vector<int>>& cores = {});
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  void submit(const std::shared_ptr<Job>& job);
  void close();  // drops what has not begun, waits for what has
  int threads() const { return threads_; }

 private:
  // On the heap, because a forked child must not even destroy it: the threads that wait on it are
  // not there, and its mutex may be held by one of them for ever.
  struct State {
    std::mutex mutex;
    std::condition_variable wake;
    std::deque<std::shared_ptr<Job>> queue;
    std::vector<std::shared_ptr<Job>> retired;
    bool closed = false;
    std::vector<int> threads_of_node;
    std::vector<std::thread> threads;
  };

  static void run_worker(State& state, std::size_t node);

  const std::int64_t process_;  // that the threads belong to
  std::unique_ptr<State> state_;
  int threads_;
};

}  // namespace yolodata
