// Ordinary JPEG files to pixels, with the bits of libjpeg-turbo, faster.
#pragma once

#include <cstddef>
#include <cstdint>

namespace yolodata::jpeg {

// Whether this processor has what `decode` is written for.
bool available();

// Decodes to RGB, uint8 (height, width, 3). False for a file that is not baseline, YCbCr or grey,
// of this size and without a fault, and for all files where not `available`: then `out` holds
// anything, and another decoder has to look at the file.
bool decode(const std::uint8_t* data, std::size_t size, std::int32_t height, std::int32_t width,
            std::uint8_t* out);

}  // namespace yolodata::jpeg
