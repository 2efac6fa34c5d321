#include "jpeg/decode.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "core/instruction_set.h"
#include "jpeg/band_avx2.h"
#include "jpeg/frame.h"
#include "jpeg/segments.h"

namespace yolodata::jpeg {

#if defined(__x86_64__)
namespace {

constexpr std::size_t kMargin = 32;  // bytes on either side of a row, which loops read

std::size_t padded(std::size_t size, std::size_t to) { return (size + to - 1) / to * to; }

// Memory of a thread, used again where it is not much: fresh memory is slow.
class Scratch {
 public:
  std::uint8_t* of(std::size_t size) {
    if (size > size_) {
      memory_.reset(new std::uint8_t[size]);
      size_ = size;
    }
    return memory_.get();
  }

  void give_back() {
    if (size_ <= kKept) return;
    memory_.reset();
    size_ = 0;
  }

 private:
  static constexpr std::size_t kKept = 8 << 20;
  std::unique_ptr<std::uint8_t[]> memory_;
  std::size_t size_ = 0;
};

// Copies the bits of a scan, and leaves out the zero behind each 0xFF. Gives how many bytes they
// are, `size` where no end of the picture follows them.
std::size_t copy_bits(const std::uint8_t* data, std::size_t size, std::uint8_t* out) {
  std::uint8_t* const begin = out;
  const std::uint8_t* const end = data + size;
  for (const std::uint8_t* at = data; at < end;) {
    const auto left = static_cast<std::size_t>(end - at);
    const auto* const found = static_cast<const std::uint8_t*>(std::memchr(at, 0xFF, left));
    if (found == nullptr || found + 1 == end) return size;
    const auto before = static_cast<std::size_t>(found - at);
    std::memcpy(out, at, before);
    out += before;
    if (found[1] == kEoi) {
      std::memset(out, 0, Bits::kSlack);
      return static_cast<std::size_t>(out - begin);
    }
    if (found[1] != 0) return size;
    *out++ = 0xFF;
    at = found + 2;
  }
  return size;
}

// The samples of a component that one row of units covers, behind the last row of the one before.
struct Band {
  std::int16_t* blocks;  // their coefficients, row of blocks by row of blocks
  std::size_t across;    // blocks of a row that are transformed, an even number
  std::uint8_t* samples;
  std::ptrdiff_t stride;
  std::int32_t rows, width;  // without the first row; samples that the picture has

  std::size_t pitch() const { return across + 1; }  // behind the last one may be written, too
  std::uint8_t* row(std::int32_t number) const { return samples + (number + 1) * stride; }
};

class Picture {
 public:
  Picture(const Frame& frame, std::int32_t height, std::int32_t width, std::uint8_t* out)
      : frame_(frame), height_(height), width_(width), out_(out) {
    const Component& first = frame.component[0];
    across_ = first.across, down_ = first.down;
    units_ = (width + 8 * across_ - 1) / (8 * across_);
    unit_rows_ = (height + 8 * down_ - 1) / (8 * down_);
  }

  bool decode(Bits bits, Scratch& scratch) {
    lay_out(scratch);
    std::uint32_t dc[3] = {};
    for (std::int32_t r = 0; r < unit_rows_; ++r) {
      if (!read_row(bits, dc)) return false;
      for (int c = 0; c < frame_.components; ++c)
        if (!finish_band(c)) return false;
      write_rows(r);
    }
    const std::ptrdiff_t left = 8 * (bits.end - bits.next) + bits.held;
    return left >= 0 && left < 8;
  }

 private:
  void lay_out(Scratch& scratch) {
    std::size_t samples[3], blocks[3], total = 0;
    for (int c = 0; c < frame_.components; ++c) {
      const Component& component = frame_.component[static_cast<std::size_t>(c)];
      Band& band = band_[c];
      band.across = padded(static_cast<std::size_t>(units_ * component.across), 2);
      band.stride = static_cast<std::ptrdiff_t>(padded(8 * band.across, 32) + 2 * kMargin);
      band.rows = 8 * component.down;
      band.width = (width_ * component.across + across_ - 1) / across_;
      blocks[c] = 64 * band.pitch() * static_cast<std::size_t>(component.down);
      samples[c] = static_cast<std::size_t>((band.rows + 1) * band.stride);
      total += 2 * blocks[c] + samples[c];
    }
    doubled_ = padded(8 * static_cast<std::size_t>(units_ * across_), 32) + kMargin;
    std::uint8_t* at = scratch.of(total + 2 * doubled_ + 64);
    at += -reinterpret_cast<std::uintptr_t>(at) & 31;
    for (int c = 0; c < frame_.components; ++c) {
      band_[c].blocks = reinterpret_cast<std::int16_t*>(at);
      std::memset(at, 0, 2 * blocks[c]);
      at += 2 * blocks[c];
    }
    for (int c = 0; c < frame_.components; ++c) {
      band_[c].samples = at + kMargin;
      at += samples[c];
    }
    cb_ = at;
    cr_ = at + doubled_;
  }

  bool read_row(Bits& bits, std::uint32_t (&dc)[3]) {
    std::int16_t* out[6];
    int count = 0, step[6];
    for (int c = 0; c < frame_.components; ++c) {
      const Component& component = frame_.component[static_cast<std::size_t>(c)];
      for (int v = 0; v < component.down; ++v)
        for (int u = 0; u < component.across; ++u, ++count) {
          out[count] = band_[c].blocks + 64 * (band_[c].pitch() * static_cast<std::size_t>(v) +
                                               static_cast<std::size_t>(u));
          step[count] = 64 * component.across;
        }
    }
    for (std::int32_t unit = 0; unit < units_; ++unit) {
      if (!avx2::read_unit(frame_, bits, dc, out)) return false;
      for (int i = 0; i < count; ++i) out[i] += step[i];
    }
    return true;
  }

  bool finish_band(int c) {
    const Band& band = band_[c];
    const std::int16_t* const step = frame_.component[static_cast<std::size_t>(c)].step.data();
    bool good = true;
    for (std::int32_t row = 0; row < band.rows; row += 8)
      for (std::size_t b = 0; b < band.across; b += 2)
        good &= avx2::to_samples(
            band.blocks + 64 * (band.pitch() * static_cast<std::size_t>(row / 8) + b), step,
            band.row(row) + 8 * b, band.stride);
    if (c == 0 || across_ == 1) return good;
    for (std::int32_t row = 0; row < band.rows; ++row) {  // what lies beyond the picture's edges
      std::uint8_t* const at = band.row(row);
      at[-1] = at[0];
      at[band.width] = at[band.width - 1];
    }
    return good;
  }

  // Rows that are complete with unit row `r`; where colours are doubled downwards, the last one of
  // it waits for the next.
  void write_rows(std::int32_t r) {
    const std::int32_t top = r * band_[0].rows;
    const bool last = r + 1 == unit_rows_;
    const std::int32_t begin = down_ == 2 && r ? top - 1 : top;
    const std::int32_t end = last ? height_ : top + band_[0].rows - (down_ == 2 ? 1 : 0);
    for (std::int32_t y = begin; y < end; ++y) write_row(y, top);
    if (down_ == 1) return;
    for (int c = 0; c < frame_.components; ++c) {
      const Band& band = band_[c];
      std::memcpy(band.row(-1) - 1, band.row(band.rows - 1) - 1,
                  static_cast<std::size_t>(band.width) + 2);
    }
  }

  void write_row(std::int32_t y, std::int32_t top) {
    std::uint8_t* const out =
        out_ + 3 * static_cast<std::size_t>(width_) * static_cast<std::size_t>(y);
    const std::uint8_t* const light = band_[0].row(y - top);
    if (frame_.components == 1) return avx2::grey_to_rgb(light, width_, out);
    const std::uint8_t *cb = cb_, *cr = cr_;
    if (down_ == 2) {
      const std::int32_t mine = y / 2, above = top / 2, lowest = (height_ + 1) / 2 - 1;
      const std::int32_t near = std::clamp(y % 2 ? mine + 1 : mine - 1, 0, lowest);
      for (int c = 1; c < 3; ++c)
        avx2::double_both(band_[c].row(mine - above), band_[c].row(near - above), band_[c].width,
                          c == 1 ? cb_ : cr_);
    } else if (across_ == 2) {
      avx2::double_across(band_[1].row(y - top), band_[1].width, cb_);
      avx2::double_across(band_[2].row(y - top), band_[2].width, cr_);
    } else {
      cb = band_[1].row(y - top);
      cr = band_[2].row(y - top);
    }
    avx2::to_rgb(light, cb, cr, width_, out);
  }

  const Frame& frame_;
  const std::int32_t height_, width_;
  std::uint8_t* const out_;
  std::int32_t across_, down_;  // blocks of a unit that are brightness
  std::int32_t units_, unit_rows_;
  Band band_[3];
  std::uint8_t *cb_ = nullptr, *cr_ = nullptr;  // a row of colours, doubled
  std::size_t doubled_ = 0;
};

}  // namespace

bool available() {
  static const bool has =
      instruction_set() != InstructionSet::kPortable && __builtin_cpu_supports("bmi2");
  return has;
}

bool decode(const std::uint8_t* data, std::size_t size, std::int32_t height, std::int32_t width,
            std::uint8_t* out) {
  // Not the frame itself: a thread that gets no memory for its thread-local data ends the process.
  thread_local const auto memory = std::make_unique<Frame>();
  Frame& frame = *memory;
  thread_local Scratch bit_memory, samples;
  if (!available() || !read_frame(data, size, frame)) return false;
  // libjpeg does not filter the colours of very narrow pictures.
  if (frame.height != height || frame.width != width || width < 8) return false;
  const std::size_t left = size - frame.bits;
  std::uint8_t* const bits = bit_memory.of(left + Bits::kSlack);
  const std::size_t count = copy_bits(data + frame.bits, left, bits);
  const bool good =
      count != left && Picture(frame, height, width, out).decode({bits, bits + count}, samples);
  bit_memory.give_back();
  samples.give_back();
  return good;
}

#else

bool available() { return false; }

bool decode(const std::uint8_t*, std::size_t, std::int32_t, std::int32_t, std::uint8_t*) {
  return false;
}

#endif

}  // namespace yolodata::jpeg
