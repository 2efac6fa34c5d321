// fastjpeg check FILE...   transcodes and decodes every file, compares with libjpeg, damages copies
// fastjpeg time ROUNDS FILE...   times decoders against libjpeg, 20 pictures a turn
// Both print one JSON object.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <random>

#include "decoder.h"

namespace fastjpeg {
namespace {

Bytes read_file(const char* path) {
  std::ifstream file(path, std::ios::binary);
  return Bytes(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

int check(const std::vector<const char*>& paths) {
  Decompressor libjpeg;
  Decoder one(1), three(3);
  size_t bytes_before = 0, bytes_after = 0;
  int originals = 0, damaged = 0, refused = 0, accepted_other = 0;
  std::mt19937 random(17);
  for (const char* path : paths) {
    const Bytes file = read_file(path), fast = transcode(file);
    bytes_before += file.size();
    bytes_after += fast.size();
    Picture want, got;
    if (!libjpeg_decode(libjpeg, file, want)) throw std::runtime_error("libjpeg cannot decode");
    const auto fail = [&](const char* what) { throw std::runtime_error(std::string(path) + what); };
    if (coefficients(file) != coefficients(fast))
      fail(": the transcoded file has other coefficients");
    if (!three.decode(fast, got)) fail(": the transcoded file was not taken");
    if (got.bgr != want.bgr) fail(": the transcoded file has other pixels");
    if (one.decode(file, got)) {
      ++originals;
      if (got.bgr != want.bgr) fail(": the original has other pixels");
    }
    // The header stays: its sizes decide how much memory is asked for.
    for (int i = 0; i < 4; ++i) {
      Bytes bad = fast;
      for (int n = 0; n < 1 << i; ++n) {
        const size_t at = bad.size() / 4 + random() % (bad.size() - bad.size() / 4);
        bad[at] = uint8_t(random());
      }
      ++damaged;
      const bool reference = libjpeg_decode(libjpeg, bad, want);
      if (!three.decode(bad, got)) {
        ++refused;
      } else {
        accepted_other += !reference || got.bgr != want.bgr;
      }
    }
  }
  std::printf(
      "{\"files\": %zu, \"coefficients_equal\": %zu, \"pixels_equal\": %zu, "
      "\"originals_taken_and_equal\": %d, \"size_ratio\": %.4f, \"damaged\": %d, "
      "\"damaged_refused\": %d, \"damaged_taken_with_other_pixels_than_libjpeg\": %d}\n",
      paths.size(), paths.size(), paths.size(), originals,
      double(bytes_after) / double(bytes_before), damaged, refused, accepted_other);
  return 0;
}

constexpr size_t kTurn = 20;  // pictures: each decoder is warm, and a disturbance hits all alike

int time(int rounds, const std::vector<const char*>& paths) {
  std::vector<Bytes> originals, fast;
  for (const char* path : paths) {
    originals.push_back(read_file(path));
    fast.push_back(transcode(originals.back()));
  }
  Decompressor libjpeg;
  Decoder one(1), two(2), three(3), four(4);
  Picture picture;
  struct Subject {
    const char* name;
    std::function<void(size_t)> run;
    std::vector<double> ms, ratio;  // of each round
  };
  std::vector<Subject> subjects;
  const auto add = [&](const char* name, std::function<void(size_t)> run) {
    subjects.push_back({name, std::move(run), {}, {}});
  };
  add("libjpeg", [&](size_t i) { libjpeg_decode(libjpeg, originals[i], picture); });
  add("libjpeg_transcoded", [&](size_t i) { libjpeg_decode(libjpeg, fast[i], picture); });
  if (one.decode(originals[0], picture)) {
    add("original_1_lane", [&](size_t i) { one.decode(originals[i], picture); });
  }
  add("transcoded_1_lane", [&](size_t i) { one.decode(fast[i], picture); });
  add("transcoded_2_lanes", [&](size_t i) { two.decode(fast[i], picture); });
  add("transcoded_3_lanes", [&](size_t i) { three.decode(fast[i], picture); });
  add("transcoded_4_lanes", [&](size_t i) { four.decode(fast[i], picture); });
  add("only_header_and_unstuffing",
      [&](size_t i) { three.decode(fast[i], picture, Until::kUnstuffed); });
  add("only_to_coefficients_3_lanes",
      [&](size_t i) { three.decode(fast[i], picture, Until::kCoefficients); });

  using Clock = std::chrono::steady_clock;
  for (int round = -1; round < rounds; ++round) {  // the first one warms
    std::vector<double> total(subjects.size());
    for (size_t first = 0; first < paths.size(); first += kTurn) {
      for (size_t s = 0; s < subjects.size(); ++s) {
        const auto begin = Clock::now();
        for (size_t i = first; i < std::min(first + kTurn, paths.size()); ++i) subjects[s].run(i);
        total[s] += std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
      }
    }
    for (size_t s = 0; round >= 0 && s < subjects.size(); ++s) {
      subjects[s].ms.push_back(total[s] / double(paths.size()));
      subjects[s].ratio.push_back(total[0] / total[s]);
    }
  }
  std::printf("{\"pictures\": %zu, \"rounds\": %d", paths.size(), rounds);
  for (Subject& s : subjects) {
    std::sort(s.ms.begin(), s.ms.end());
    std::sort(s.ratio.begin(), s.ratio.end());
    const size_t middle = s.ms.size() / 2;
    std::printf(
        ", \"%s\": {\"ms\": %.3f, \"ms_min\": %.3f, \"ms_max\": %.3f, \"times_libjpeg\": "
        "%.2f, \"times_min\": %.2f, \"times_max\": %.2f}",
        s.name, s.ms[middle], s.ms.front(), s.ms.back(), s.ratio[middle], s.ratio.front(),
        s.ratio.back());
  }
  std::printf("}\n");
  return 0;
}

}  // namespace
}  // namespace fastjpeg

int main(int argc, char** argv) {
  try {
    if (argc > 2 && std::strcmp(argv[1], "check") == 0) {
      return fastjpeg::check({argv + 2, argv + argc});
    }
    if (argc > 3 && std::strcmp(argv[1], "time") == 0 && std::atoi(argv[2]) > 0) {
      return fastjpeg::time(std::atoi(argv[2]), {argv + 3, argv + argc});
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "fastjpeg: %s\n", error.what());
    return 1;
  }
  std::fprintf(stderr, "usage: fastjpeg check FILE... | fastjpeg time ROUNDS FILE...\n");
  return 2;
}
