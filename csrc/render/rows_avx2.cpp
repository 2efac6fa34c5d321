// The loops of rows.cpp for x86-64 with AVX2 and FMA, written out where compilers do badly.
//
// Everything in this file is compiled for those processors: nothing else may be defined here.
#if defined(__x86_64__)
#pragma GCC target("avx2,fma")

#include "render/rows_avx2.h"

#include <immintrin.h>

#include <cstring>

namespace yolodata::avx2 {
namespace {

inline __m256 load_eight(const std::uint8_t* bytes) {
  return _mm256_cvtepi32_ps(
      _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes))));
}

inline __m256i load_words(const std::uint32_t* words) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words));
}

inline void store_words(std::uint32_t* words, __m256i value) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(words), value);
}

inline __m256 truncate(__m256 value) {
  return _mm256_round_ps(value, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
}

inline __m256 floor(__m256 value) {
  return _mm256_round_ps(value, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
}

// numerator / denominator, rounded to 12 fractional bits: above 2048 a float has no more. The
// division is scaled by a power of two from shade.h's, which changes no digit.
inline __m256 reciprocal(float numerator, __m256 denominator) {
  const __m256 shift = _mm256_set1_ps(3072.0f);
  const __m256 quotient =
      _mm256_div_ps(_mm256_set1_ps(numerator), _mm256_max_ps(denominator, _mm256_set1_ps(1.0f)));
  return _mm256_sub_ps(_mm256_add_ps(quotient, shift), shift);
}

struct Constants {
  __m256 shift, saturation, value;
};

// Hue 0..179, saturation 0..1, value 0..255, all after the jitter.
struct Jittered {
  __m256 hue, saturation, value;
};

// jitter() of shade.h with every integer kept in a float. The products that shade.h makes of
// integers have at most 12 fractional bits and are below 256: adding a half and rounding once to
// single precision cannot carry them over a whole number.
//
// In two halves, for several registers in turn: one after the other they would be a chain so long
// that a processor sees the next pixels too late to work on them meanwhile.
inline Jittered to_hsv(const Constants& gain, __m256i word) {
  const __m256i byte = _mm256_set1_epi32(255);
  const __m256 unit = _mm256_set1_ps(1.0f / 255.0f), most = _mm256_set1_ps(255.0f);
  const __m256 half = _mm256_set1_ps(0.5f);
  const __m256 turn = _mm256_set1_ps(180.0f);
  const __m256 r = _mm256_cvtepi32_ps(_mm256_and_si256(word, byte));
  const __m256 g = _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(word, 8), byte));
  const __m256 b = _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(word, 16), byte));
  const __m256 top = _mm256_max_ps(_mm256_max_ps(r, g), b);
  const __m256 range = _mm256_sub_ps(top, _mm256_min_ps(_mm256_min_ps(r, g), b));

  const __m256 from_red = _mm256_sub_ps(g, b);
  const __m256 from_green = _mm256_fmadd_ps(_mm256_set1_ps(2.0f), range, _mm256_sub_ps(b, r));
  const __m256 from_blue = _mm256_fmadd_ps(_mm256_set1_ps(4.0f), range, _mm256_sub_ps(r, g));
  const __m256 other = _mm256_blendv_ps(from_blue, from_green, _mm256_cmp_ps(top, g, _CMP_EQ_OQ));
  const __m256 wheel = _mm256_blendv_ps(other, from_red, _mm256_cmp_ps(top, r, _CMP_EQ_OQ));
  __m256 hue = floor(_mm256_fmadd_ps(wheel, reciprocal(30.0f, range), half));
  hue = _mm256_add_ps(hue, gain.shift);
  hue =
      _mm256_add_ps(hue, _mm256_and_ps(_mm256_cmp_ps(hue, _mm256_setzero_ps(), _CMP_LT_OQ), turn));
  hue = _mm256_sub_ps(hue, _mm256_and_ps(_mm256_cmp_ps(hue, turn, _CMP_GE_OQ), turn));

  const __m256 plain = truncate(_mm256_fmadd_ps(range, reciprocal(255.0f, top), half));
  const __m256 saturation =
      _mm256_mul_ps(truncate(_mm256_min_ps(_mm256_mul_ps(plain, gain.saturation), most)), unit);
  const __m256 raised = truncate(_mm256_min_ps(_mm256_mul_ps(top, gain.value), most));
  return {hue, saturation, raised};
}

inline __m256i to_word(const Jittered& hsv) {
  const __m256 unit = _mm256_set1_ps(1.0f / 255.0f), most = _mm256_set1_ps(255.0f);
  const __m256 one = _mm256_set1_ps(1.0f);
  const __m256 hue = hsv.hue, saturation = hsv.saturation;
  const __m256 value = _mm256_mul_ps(hsv.value, unit);
  const __m256 sixths = _mm256_mul_ps(hue, _mm256_set1_ps(6.0f / 180.0f));
  const __m256 whole = floor(sixths);
  const __m256i sector = _mm256_cvttps_epi32(whole);
  const __m256 past = _mm256_sub_ps(sixths, whole);
  const __m256 odd =
      _mm256_castsi256_ps(_mm256_slli_epi32(sector, 31));  // blendv asks for the sign
  const __m256 share = _mm256_blendv_ps(_mm256_sub_ps(one, past), past, odd);
  const __m256i middle = _mm256_cvttps_epi32(
      _mm256_mul_ps(_mm256_mul_ps(value, _mm256_fnmadd_ps(saturation, share, one)), most));
  const __m256i low = _mm256_cvttps_epi32(
      _mm256_mul_ps(_mm256_mul_ps(value, _mm256_sub_ps(one, saturation)), most));

  // Where each of the three goes in the word, by sector: red 0, green 8, blue 16.
  const __m256i top_at = _mm256_setr_epi32(0, 8, 8, 16, 16, 0, 0, 0);
  const __m256i middle_at = _mm256_setr_epi32(8, 0, 16, 8, 0, 16, 0, 0);
  const __m256i low_at = _mm256_setr_epi32(16, 16, 0, 0, 8, 8, 0, 0);
  const auto put = [sector](__m256i channel, __m256i places) {
    return _mm256_sllv_epi32(channel, _mm256_permutevar8x32_epi32(places, sector));
  };
  return _mm256_or_si256(
      _mm256_or_si256(put(_mm256_cvttps_epi32(hsv.value), top_at), put(middle, middle_at)),
      put(low, low_at));
}

}  // namespace

int blend_rows(const std::uint8_t* top, const std::uint8_t* bottom, float weight, int count,
               float* line) {
  const __m256 down = _mm256_set1_ps(weight);
  int i = 0;
  for (; i + 16 <= count; i += 16) {
    const __m256 a = load_eight(top + i), b = load_eight(bottom + i);
    const __m256 c = load_eight(top + i + 8), d = load_eight(bottom + i + 8);
    _mm256_storeu_ps(line + i, _mm256_fmadd_ps(down, _mm256_sub_ps(b, a), a));
    _mm256_storeu_ps(line + i + 8, _mm256_fmadd_ps(down, _mm256_sub_ps(d, c), c));
  }
  return i;
}

// Pixels i and i + 4 share a register, so that packing eight of them leaves them in order. Rounding
// a little above and a little below tells where a tie is near.
int resample_row(const float* line, const std::int32_t* offsets, const float* weights, int count,
                 float tolerance, std::uint32_t* words, std::int32_t*& doubtful) {
  const __m256 apart = _mm256_set1_ps(tolerance);
  int i = 0;
  for (; i + 8 <= count; i += 8) {
    __m256i above[4], below[4];
    for (int k = 0; k < 4; ++k) {
      const float* p = line + offsets[i + k];
      const float* q = line + offsets[i + k + 4];
      const __m256 left = _mm256_loadu2_m128(q, p), right = _mm256_loadu2_m128(q + 3, p + 3);
      const __m256 weight =
          _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_broadcast_ss(weights + i + k)),
                               _mm_broadcast_ss(weights + i + k + 4), 1);
      const __m256 value = _mm256_fmadd_ps(weight, _mm256_sub_ps(right, left), left);
      above[k] = _mm256_cvtps_epi32(_mm256_add_ps(value, apart));
      below[k] = _mm256_cvtps_epi32(_mm256_sub_ps(value, apart));
    }
    const __m256i high = _mm256_packus_epi16(_mm256_packs_epi32(above[0], above[1]),
                                             _mm256_packs_epi32(above[2], above[3]));
    const __m256i low = _mm256_packus_epi16(_mm256_packs_epi32(below[0], below[1]),
                                            _mm256_packs_epi32(below[2], below[3]));
    store_words(words + i, low);
    const int same = _mm256_movemask_epi8(_mm256_cmpeq_epi8(high, low));
    // Four bits a pixel, the fourth of which is no colour.
    for (std::uint32_t differ = ~static_cast<std::uint32_t>(same) & 0x77777777u; differ != 0;) {
      const int pixel = __builtin_ctz(differ) / 4;
      *doubtful++ = i + pixel;
      differ &= ~(0xFu << (4 * pixel));
    }
  }
  return i;
}

// Eight bytes hold a pixel and its right neighbour. The left pixels of both rows go into one
// register and the right ones into another; they are blended across, then its halves down.
void interpolate_run(const std::uint8_t* image, std::int64_t stride, const Points& points,
                     int first, int last, std::int64_t ahead, std::uint32_t* words) {
  const __m128i lefts = _mm_setr_epi8(0, 1, 2, -1, 8, 9, 10, -1, -1, -1, -1, -1, -1, -1, -1, -1);
  const __m128i rights = _mm_setr_epi8(3, 4, 5, -1, 11, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1, -1);
  const std::int32_t* const xs = points.x;
  const std::int32_t* const ys = points.y;
  const float* const wxs = points.wx;
  const float* const wys = points.wy;
  for (int i = first; i < last; ++i) {
    const std::uint8_t* p = image + ys[i] * stride + 3 * std::int64_t{xs[i]};
    if (i % 4 == 0) __builtin_prefetch(p + ahead);
    const __m128i upper = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    const __m128i both = _mm_castps_si128(
        _mm_loadh_pi(_mm_castsi128_ps(upper), reinterpret_cast<const __m64*>(p + stride)));
    const __m256 left = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_shuffle_epi8(both, lefts)));
    const __m256 right = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_shuffle_epi8(both, rights)));
    const __m256 across = _mm256_fmadd_ps(_mm256_set1_ps(wxs[i]), _mm256_sub_ps(right, left), left);
    const __m128 top = _mm256_castps256_ps128(across), bottom = _mm256_extractf128_ps(across, 1);
    const __m128i value =
        _mm_cvtps_epi32(_mm_fmadd_ps(_mm_set1_ps(wys[i]), _mm_sub_ps(bottom, top), top));
    const __m128i low = _mm_packs_epi32(value, value);
    words[i] = static_cast<std::uint32_t>(_mm_cvtsi128_si32(_mm_packus_epi16(low, low)));
  }
}

int jitter_row(std::uint32_t* words, const HsvJitter& hsv, std::uint32_t jittered_fill, int count) {
  const Constants gain{_mm256_set1_ps(static_cast<float>(hsv.hue_shift)),
                       _mm256_set1_ps(hsv.saturation), _mm256_set1_ps(hsv.value)};
  const __m256i fill = _mm256_set1_epi32(static_cast<int>(kFillWord));
  const __m256i filled = _mm256_set1_epi32(static_cast<int>(jittered_fill));
  int i = 0;
  for (; i + 32 <= count; i += 32) {
    __m256i differ = _mm256_setzero_si256(), word[4];
    for (int k = 0; k < 4; ++k) {
      word[k] = load_words(words + i + 8 * k);
      differ = _mm256_or_si256(differ, _mm256_xor_si256(word[k], fill));
    }
    if (_mm256_testz_si256(differ, differ)) {  // a quarter of a typical mosaic
      for (int k = 0; k < 4; ++k) store_words(words + i + 8 * k, filled);
      continue;
    }
    Jittered hsv_of[4];
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) hsv_of[k] = to_hsv(gain, word[k]);
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) store_words(words + i + 8 * k, to_word(hsv_of[k]));
  }
  return i;
}

int split_row(const std::uint32_t* words, int count, std::uint8_t* red, std::uint8_t* green,
              std::uint8_t* blue) {
  // Within each half: the reds of its four pixels, then the greens, then the blues.
  const __m256i channels = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, -1, -1, -1, -1,
                                            0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, -1, -1, -1, -1);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  // A picture goes to memory and is read much later: past the caches, if the rows allow it.
  const auto aligned = [](const std::uint8_t* p) {
    return reinterpret_cast<std::uintptr_t>(p) % 32 == 0;
  };
  const bool stream = aligned(red) && aligned(green) && aligned(blue);
  const auto put = [stream](std::uint8_t* to, __m256i value) {
    if (stream)
      _mm256_stream_si256(reinterpret_cast<__m256i*>(to), value);
    else
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), value);
  };
  int i = 0;
  for (; i + 32 <= count; i += 32) {
    __m256i part[4];  // eight pixels each: eight reds, eight greens, eight blues
    for (int k = 0; k < 4; ++k)
      part[k] = _mm256_permutevar8x32_epi32(
          _mm256_shuffle_epi8(load_words(words + i + 8 * k), channels), order);
    const __m256i red_green_01 = _mm256_unpacklo_epi64(part[0], part[1]);
    const __m256i red_green_23 = _mm256_unpacklo_epi64(part[2], part[3]);
    const __m256i green_01 = _mm256_unpackhi_epi64(part[0], part[1]);
    const __m256i green_23 = _mm256_unpackhi_epi64(part[2], part[3]);
    put(red + i, _mm256_permute2x128_si256(red_green_01, red_green_23, 0x20));
    put(green + i, _mm256_permute2x128_si256(green_01, green_23, 0x20));
    put(blue + i, _mm256_permute2x128_si256(red_green_01, red_green_23, 0x31));
  }
  return i;
}

void finish() { _mm_sfence(); }

}  // namespace yolodata::avx2
#endif
