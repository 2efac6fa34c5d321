#include "ingest/label_rows.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <system_error>

namespace yolodata {
namespace {

constexpr std::size_t kTable = 5;  // class and box

struct Table {
  std::vector<float> values;
  std::vector<std::size_t> ends;  // of the rows, in values

  std::size_t rows() const { return ends.size(); }
  std::size_t begin(std::size_t row) const { return row ? ends[row - 1] : 0; }
  std::size_t columns(std::size_t row) const { return ends[row] - begin(row); }
};

#if defined(__cpp_lib_to_chars)

// The number at `at`, as Python's float() and a cast to single precision give it, and the end of
// its word; nullptr where a word is anything but plain digits or has a sign.
const char* read_number(const char* at, const char* end, float& number) {
  double value = 0;
  const auto [stop, error] = std::from_chars(at, end, value);
  if (error != std::errc() || !(value >= 0) || std::signbit(value)) return nullptr;
  number = static_cast<float>(value);
  return stop;
}

bool is_space(char c) { return c == ' ' || c == '\t'; }
bool is_line_end(char c) { return c == '\n' || c == '\r'; }

std::optional<Table> read_table(std::string_view text) {
  Table table;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (at != end) {
    if (is_space(*at)) {
      ++at;
    } else if (is_line_end(*at)) {
      ++at;
      if (table.values.size() > (table.rows() ? table.ends.back() : 0))
        table.ends.push_back(table.values.size());
    } else {
      float number = 0;
      at = read_number(at, end, number);
      if (!at || (at != end && !is_space(*at) && !is_line_end(*at))) return std::nullopt;
      table.values.push_back(number);
    }
  }
  if (table.values.size() > (table.rows() ? table.ends.back() : 0))
    table.ends.push_back(table.values.size());
  return table;
}

#else  // a C++ library of before 2021 reads no decimal fractions

std::optional<Table> read_table(std::string_view) { return std::nullopt; }

#endif

bool in_picture(const float* begin, const float* end) {
  return std::all_of(begin, end, [](float value) { return value <= 1.0f; });
}

bool good_class(float cls, std::size_t classes) {
  return cls < static_cast<float>(classes) && std::floor(cls) == cls;
}

// The box around a polygon, in single precision as NumPy computes it.
void append_box(const float* points, std::size_t count, std::vector<float>& box) {
  float low[2] = {points[0], points[1]}, high[2] = {points[0], points[1]};
  for (std::size_t i = 2; i < 2 * count; ++i) {
    low[i % 2] = std::min(low[i % 2], points[i]);
    high[i % 2] = std::max(high[i % 2], points[i]);
  }
  for (const int axis : {0, 1}) box.push_back((low[axis] + high[axis]) / 2);
  for (const int axis : {0, 1}) box.push_back(high[axis] - low[axis]);
}

// Whether two rows of `columns` values are the same; there is no negative zero among them.
bool repeats(const std::vector<float>& values, std::size_t columns) {
  std::vector<const float*> rows(values.size() / columns);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = values.data() + i * columns;
  const auto order = [=](const float* a, const float* b) {
    return std::memcmp(a, b, columns * sizeof(float));
  };
  std::sort(rows.begin(), rows.end(),
            [&](const float* a, const float* b) { return order(a, b) < 0; });
  return std::adjacent_find(rows.begin(), rows.end(), [&](const float* a, const float* b) {
           return order(a, b) == 0;
         }) != rows.end();
}

std::optional<LabelRows> with_polygons(const Table& table, std::size_t classes) {
  LabelRows found;
  std::vector<float> distinct;
  for (std::size_t row = 0; row < table.rows(); ++row) {
    const std::size_t columns = table.columns(row);
    if (columns < 7 || columns % 2 == 0) return std::nullopt;
    const float* const values = table.values.data() + table.begin(row);
    if (!good_class(values[0], classes) || !in_picture(values + 1, values + columns))
      return std::nullopt;
    found.cls.push_back(values[0]);
    append_box(values + 1, columns / 2, found.box);
    found.rest.insert(found.rest.end(), values + 1, values + columns);
    found.ends.push_back(found.rest.size() / 2);
    distinct.push_back(values[0]);
    distinct.insert(distinct.end(), found.box.end() - 4, found.box.end());
  }
  if (repeats(distinct, kTable)) return std::nullopt;  // polygons of one box may differ
  return found;
}

std::optional<LabelRows> with_boxes(const Table& table, std::size_t classes, std::size_t columns,
                                    std::size_t dims) {
  LabelRows found;
  for (std::size_t row = 0; row < table.rows(); ++row) {
    if (table.columns(row) != columns) return std::nullopt;
    const float* const values = table.values.data() + table.begin(row);
    if (!good_class(values[0], classes) || !in_picture(values + 1, values + kTable))
      return std::nullopt;
    for (std::size_t k = kTable; k < columns; k += dims)
      if (!in_picture(values + k, values + k + 2)) return std::nullopt;
    found.cls.push_back(values[0]);
    found.box.insert(found.box.end(), values + 1, values + kTable);
    found.rest.insert(found.rest.end(), values + kTable, values + columns);
  }
  if (repeats(table.values, columns)) return std::nullopt;
  return found;
}

}  // namespace

std::optional<LabelRows> ordinary_rows(std::string_view text, std::size_t classes,
                                       std::size_t columns, std::size_t dims) {
  const std::optional<Table> table = read_table(text);
  if (!table || !table->rows()) return std::nullopt;
  if (columns) return with_boxes(*table, classes, columns, dims);
  return table->columns(0) == kTable ? with_boxes(*table, classes, kTable, 2)
                                     : with_polygons(*table, classes);
}

}  // namespace yolodata
