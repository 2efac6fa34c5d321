#include "engine/engine.h"

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
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

// Keeps the calling thread on some cores. Where they are forbidden by now it stays as it is: that
// costs speed, and nothing else.
void stay_on([[maybe_unused]] const std::vector<int>& cores) {
#if defined(__linux__)
  if (cores.empty()) return;
  const auto count = static_cast<std::size_t>(*std::max_element(cores.begin(), cores.end())) + 1;
  cpu_set_t* const set = CPU_ALLOC(count);
  if (set == nullptr) return;
  CPU_ZERO_S(CPU_ALLOC_SIZE(count), set);
  for (const int core : cores)
    CPU_SET_S(static_cast<std::size_t>(core), CPU_ALLOC_SIZE(count), set);
  pthread_setaffinity_np(pthread_self(), CPU_ALLOC_SIZE(count), set);
  CPU_FREE(set);
#endif
}

}  // namespace

Job::Job(Request request) : request_(std::move(request)) {
  if (request_.samples.empty()) request_.samples.resize(request_.ids.size());
  count_ = request_.samples.size();
  divide({1});
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
  std::size_t dropped = 0;
  for (Part& part : parts_) dropped += part.end - part.next.exchange(part.end);
  if (dropped == 0) return;
  {
    const std::lock_guard lock(mutex_);
    if (!error_) error_ = std::make_exception_ptr(std::runtime_error("the batch was cancelled"));
  }
  finish(dropped);
}

void Job::divide(const std::vector<int>& threads) {
  std::size_t all = 0, before = 0, begin = 0;
  for (const int share : threads) all += static_cast<std::size_t>(share);
  parts_ = std::vector<Part>(threads.size());
  for (std::size_t i = 0; i < threads.size(); ++i) {
    before += static_cast<std::size_t>(threads[i]);
    parts_[i].next = begin;
    parts_[i].end = begin = count_ * before / all;
  }
}

bool Job::begun() const {
  return std::all_of(parts_.begin(), parts_.end(),
                     [](const Part& part) { return part.next.load() >= part.end; });
}

bool Job::take(std::size_t node, std::size_t& task) {
  Part& part = parts_[node];
  task = part.next.load();
  while (task < part.end)
    if (part.next.compare_exchange_weak(task, task + 1)) return true;
  return false;
}

bool Job::take_over(std::size_t& task) {
  for (std::size_t node = 0; node < parts_.size(); ++node)
    if (take(node, task)) {
      ++taken_over_;
      return true;
    }
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

Engine::Engine(int threads, const std::vector<std::vector<int>>& cores)
    : process_(getpid()), state_(std::make_unique<State>()), threads_(threads) {
  if (threads < 1 || threads > 1024)
    throw std::invalid_argument("threads must be 1 to 1024, got " + std::to_string(threads));
  const auto count = static_cast<std::size_t>(threads);
  if (!cores.empty() && cores.size() != count)
    throw std::invalid_argument("cores must be given for each of " + std::to_string(threads) +
                                " threads, or for none, got " + std::to_string(cores.size()));
  for (const std::vector<int>& some : cores)
    for (const int core : some)
      if (core < 0 || core >= 1 << 20)
        throw std::invalid_argument("a core is a number from 0, got " + std::to_string(core));
  std::vector<std::vector<int>> nodes;
  std::vector<std::size_t> node_of(count, 0);
  for (std::size_t i = 0; i < cores.size(); ++i) {
    const auto known = std::find(nodes.begin(), nodes.end(), cores[i]);
    node_of[i] = static_cast<std::size_t>(known - nodes.begin());
    if (known == nodes.end()) nodes.push_back(cores[i]);
  }
  if (nodes.empty()) nodes.emplace_back();
  state_->threads_of_node.assign(nodes.size(), 0);
  for (const std::size_t node : node_of) ++state_->threads_of_node[node];
  state_->threads.reserve(count);
  for (const std::size_t node : node_of)
    state_->threads.emplace_back([this, node, kept = nodes[node]] {
      stay_on(kept);
      run_worker(*state_, node);
    });
}

Engine::~Engine() { close(); }

void Engine::submit(const std::shared_ptr<Job>& job) {
  if (!state_ || getpid() != process_)
    throw std::runtime_error(
        "the engine belongs to another process; open a new loader in this one");
  std::vector<std::shared_ptr<Job>> retired;
  job->divide(state_->threads_of_node);
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
void Engine::run_worker(State& state, std::size_t node) {
#if defined(__linux__)
  pthread_setname_np(pthread_self(), "yolodata");
#endif
  std::unique_lock lock(state.mutex);
  while (true) {
    state.wake.wait(lock, [&] { return state.closed || !state.queue.empty(); });
    if (state.queue.empty()) return;
    std::size_t task = 0;
    const auto own = [&](const auto& job) { return job->take(node, task); };
    auto found = std::find_if(state.queue.begin(), state.queue.end(), own);
    if (found == state.queue.end() && state.queue.front()->take_over(task))
      found = state.queue.begin();
    if (found != state.queue.end()) {
      std::shared_ptr<Job> job = *found;
      lock.unlock();
      job->run(task);
      lock.lock();
      state.retired.push_back(std::move(job));
    }
    while (!state.queue.empty() && state.queue.front()->begun()) {
      state.retired.push_back(std::move(state.queue.front()));
      state.queue.pop_front();
    }
  }
}

}  // namespace yolodata
