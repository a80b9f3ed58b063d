/* Builds an index of 10,000 records, looks records up by key, most often the same ones, and scans the table
 * now and then: the program whose page references are in index.trace.gz. No input, no library beyond libc. */

#include <stdint.h>
#include <stdlib.h>

enum { RECORDS = 10000, LOOKUPS = 3000, SCAN_EVERY = 500 };

struct record {
    uint32_t key;
    uint32_t hits;
    char payload[56];
};

static uint32_t seed = 1;

static uint32_t draw(void) {
    seed = seed * 1664525u + 1013904223u;
    return seed >> 8;
}

static int by_key(const void *left, const void *right) {
    const struct record *const *a = left, *const *b = right;
    return ((*a)->key > (*b)->key) - ((*a)->key < (*b)->key);
}

int main(void) {
    struct record *table = calloc(RECORDS, sizeof *table);
    struct record **index = malloc(RECORDS * sizeof *index);
    uint32_t sum = 0;

    for (int i = 0; i < RECORDS; i++) {
        table[i].key = draw();
        index[i] = &table[i];
    }
    qsort(index, RECORDS, sizeof *index, by_key);
    for (int i = 0; i < LOOKUPS; i++) {
        uint32_t place = draw() % 10 ? draw() % (RECORDS / 20) : draw() % RECORDS;
        struct record wanted = {.key = index[place]->key}, *pointer = &wanted;
        struct record **found = bsearch(&pointer, index, RECORDS, sizeof *index, by_key);
        (*found)->hits++;
        if (i % SCAN_EVERY == 0)
            for (int k = 0; k < RECORDS; k++)
                sum += table[k].hits;
    }
    return sum == 0;
}
