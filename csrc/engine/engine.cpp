#include "engine/engine.h"

#include <pthread.h>
#include <unistd.h>

#include <stdexcept>
#include <string>
#include <utility>

#include "render/render.h"

namespace yolodata {
namespace {

using Clock = std::chrono::steady_clock;

std::int64_t nanoseconds_since(Clock::time_point start) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start).count();
}

Sources find_sources(const Recipe& recipe, const PixelLookup& pixels) {
  Sources sources{};
  for (int l = 0; l < recipe.layer_count; ++l)
    for (int t = 0; t < recipe.layers[l].tile_count; ++t) {
      const Tile& tile = recipe.layers[l].tiles[t];
      sources.layers[l].images[t] = {pixels(tile.image), tile.width, tile.height};
    }
  return sources;
}

}  // namespace

Job::Job(Request request) : request_(std::move(request)) {
  if (request_.samples.empty()) request_.samples.resize(request_.ids.size());
  count_ = request_.samples.size();
}

bool Job::wait(double seconds) {
  std::unique_lock lock(mutex_);
  const auto complete = [&] { return finished_ == count_; };
  if (seconds < 0)
    changed_.wait(lock, complete);
  else if (!changed_.wait_for(lock, std::chrono::duration<double>(seconds), complete))
    return false;
  if (error_) std::rethrow_exception(error_);
  return true;
}

bool Job::done() const {
  const std::lock_guard lock(mutex_);
  return finished_ == count_;
}

void Job::cancel() {
  const std::size_t begun = next_.exchange(count_);
  if (begun >= count_) return;
  {
    const std::lock_guard lock(mutex_);
    if (!error_) error_ = std::make_exception_ptr(std::runtime_error("the batch was cancelled"));
  }
  finish(count_ - begun);
}

bool Job::take(std::size_t& task) {
  task = next_.load();
  while (task < count_)
    if (next_.compare_exchange_weak(task, task + 1)) return true;
  return false;
}

void Job::finish(std::size_t tasks) {
  const std::lock_guard lock(mutex_);
  finished_ += tasks;
  if (finished_ == count_) changed_.notify_all();
}

void Job::run(std::size_t task) {
  try {
    Sample& sample = request_.samples[task];
    auto start = Clock::now();
    if (!request_.ids.empty()) {
      sample.plan = plan(request_.config, *request_.table, request_.ids[task]);
      sample.labels = labels(sample.plan, *request_.table,
                             {request_.config.mask_ratio, request_.config.overlap_mask});
      plan_ns_ += nanoseconds_since(start);
      start = Clock::now();
    }
    if (request_.out != nullptr) {
      const Recipe& recipe = sample.plan.recipe;
      const std::size_t bytes =
          3 * static_cast<std::size_t>(recipe.width) * static_cast<std::size_t>(recipe.height);
      Sources sources = find_sources(recipe, request_.pixels);
      set_masks(sample.plan, sources);
      const StorageWait storage;
      render_cpu(recipe, sources, request_.out + task * bytes);
      const std::int64_t took = nanoseconds_since(start), waited = storage.of(took);
      render_ns_ += took - waited;
      storage_ns_ += waited;
    } else if (request_.render_tasks != nullptr) {
      const Recipe& recipe = sample.plan.recipe;
      request_.render_tasks[task] = {recipe, find_sources(recipe, request_.pixels)};
    }
  } catch (...) {
    const std::lock_guard lock(mutex_);
    if (!error_) error_ = std::current_exception();
  }
  finish(1);
}

Engine::Engine(int threads)
    : process_(getpid()), state_(std::make_unique<State>()), threads_(threads) {
  if (threads < 1 || threads > 1024)
    throw std::invalid_argument("threads must be 1 to 1024, got " + std::to_string(threads));
  state_->threads.reserve(static_cast<std::size_t>(threads));
  for (int i = 0; i < threads; ++i) state_->threads.emplace_back([this] { run_worker(*state_); });
}

Engine::~Engine() { close(); }

void Engine::submit(const std::shared_ptr<Job>& job) {
  if (!state_ || getpid() != process_)
    throw std::runtime_error(
        "the engine belongs to another process; open a new loader in this one");
  std::vector<std::shared_ptr<Job>> retired;
  {
    const std::lock_guard lock(state_->mutex);
    if (state_->closed) throw std::runtime_error("the engine is closed; open a new loader");
    if (!job->done()) state_->queue.push_back(job);
    retired.swap(state_->retired);
  }
  state_->wake.notify_all();
}

void Engine::close() {
  if (getpid() != process_) {
    static_cast<void>(state_.release());
    return;
  }
  std::deque<std::shared_ptr<Job>> dropped;
  {
    const std::lock_guard lock(state_->mutex);
    state_->closed = true;
    dropped.swap(state_->queue);
  }
  for (const auto& job : dropped) job->cancel();
  state_->wake.notify_all();
  for (auto& thread : state_->threads)
    if (thread.joinable()) thread.join();
  state_->retired.clear();
}

// Letting go of a job may take the GIL, which a native thread must never wait for: its holder may
// be waiting for that very thread, or be the interpreter on its way out. Jobs are retired instead,
// and let go of by whoever calls submit or close.
void Engine::run_worker(State& state) {
#if defined(__linux__)
  pthread_setname_np(pthread_self(), "yolodata");
#endif
  std::unique_lock lock(state.mutex);
  while (true) {
    state.wake.wait(lock, [&] { return state.closed || !state.queue.empty(); });
    if (state.queue.empty()) return;
    std::shared_ptr<Job> job = state.queue.front();
    std::size_t task = 0;
    if (job->take(task)) {
      lock.unlock();
      job->run(task);
      lock.lock();
    } else {
      state.retired.push_back(std::move(state.queue.front()));
      state.queue.pop_front();
    }
    state.retired.push_back(std::move(job));
  }
}

}  // namespace yolodata
