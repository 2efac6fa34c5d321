// Label text that came with a dataset: what is taken as ordinary keeps every promise of
// ingest/label_rows.h.
#include "ingest/label_rows.h"

#include "fuzz.h"

using namespace yolodata;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  const std::size_t classes = data[0] % 100, keypoints = data[1] % 4, dims = 2 + data[1] / 4 % 2;
  const std::size_t columns = keypoints ? 5 + keypoints * dims : 0;
  const std::string text(reinterpret_cast<const char*>(data) + 2, size - 2);
  const auto found = ordinary_rows(text, classes, columns, dims);
  if (!found) return 0;
  const std::size_t rows = found->cls.size();
  must(rows > 0 && found->box.size() == 4 * rows);
  for (const float cls : found->cls)
    must(cls >= 0 && cls < static_cast<float>(classes) && std::floor(cls) == cls);
  for (const float value : found->box) must(value >= 0 && value <= 1);
  if (columns) must(found->rest.size() == rows * keypoints * dims && found->ends.empty());
  if (!found->ends.empty()) {
    must(found->ends.size() == rows && 2 * found->ends.back() == found->rest.size());
    for (std::size_t i = 0; i < rows; ++i) must(found->ends[i] >= (i ? found->ends[i - 1] : 0) + 3);
    for (const float value : found->rest) must(value >= 0 && value <= 1);
  }
  return 0;
}
