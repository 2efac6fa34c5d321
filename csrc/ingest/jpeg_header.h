// Sizes of ordinary JPEG files; see yolodata/images/jpeg.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>

namespace yolodata {

// (width, height) if the file is what jpeg.py calls ordinary.
std::optional<std::pair<std::int32_t, std::int32_t>> ordinary_jpeg_size(const std::uint8_t* data,
                                                                        std::size_t size);

}  // namespace yolodata
