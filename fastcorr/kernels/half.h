/* IEEE binary16 to and from float, exact and rounded to nearest even. Hardware conversions are not in every level. */
#ifndef FASTCORR_HALF_H
#define FASTCORR_HALF_H
#include <stdint.h>
#include <string.h>

typedef struct { uint16_t bits; } half; /* a type of its own, not a number */

static inline float half_to_float(half h) {
    /* Exponent and fraction moved to their float places are the value times 2**-112; one exact multiplication undoes
     * that, subnormals included. Inf and NaN keep all exponent bits set. */
    uint32_t magnitude = (uint32_t)(h.bits & 0x7fffu) << 13, sign = (uint32_t)(h.bits & 0x8000u) << 16;
    float value;
    if (magnitude >= 0x0f800000u) {
        magnitude |= 0x7f800000u;
        memcpy(&value, &magnitude, sizeof value);
    } else {
        memcpy(&value, &magnitude, sizeof value);
        value *= 0x1p112f;
        memcpy(&magnitude, &value, sizeof value);
    }
    magnitude |= sign;
    memcpy(&value, &magnitude, sizeof value);
    return value;
}

static inline half half_from_float(float value) {
    uint32_t bits, sign;
    memcpy(&bits, &value, sizeof bits);
    sign = (bits >> 16) & 0x8000u;
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u)                 /* NaN: keep the top of its payload, quiet */
        return (half){(uint16_t)(sign | 0x7e00u | ((bits >> 13) & 0x3ffu))};
    if (bits >= 0x477ff000u)                /* 65520 and more round to Inf */
        return (half){(uint16_t)(sign | 0x7c00u)};
    if (bits < 0x38800000u) {               /* subnormal: adding 0.5 puts the last place of the result at bit 0 */
        float shifted;
        memcpy(&shifted, &bits, sizeof shifted);
        shifted += 0.5f;
        memcpy(&bits, &shifted, sizeof bits);
        return (half){(uint16_t)(sign | (bits - 0x3f000000u))};
    }
    bits += 0xfffu + ((bits >> 13) & 1u);   /* nearest, ties to even */
    return (half){(uint16_t)(sign | ((bits - 0x38000000u) >> 13))};
}
#endif
