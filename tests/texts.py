"""Sentences in many scripts, written for these tests, and texts that break careless code."""

SENTENCES = {
    "en": "How long does a house cat live? Most cats live between twelve and eighteen years.",
    "de": "Wie lange lebt eine Hauskatze? Die meisten Katzen werden zwölf bis achtzehn Jahre alt.",
    "fr": "Combien de temps vit un chat domestique ? La plupart vivent de douze à dix-huit ans.",
    "es": "¿Cuánto vive un gato doméstico? La mayoría vive entre doce y dieciocho años.",
    "vi": "Mèo nhà sống được bao lâu? Phần lớn mèo sống từ mười hai đến mười tám năm.",
    "tr": "Ev kedisi ne kadar yaşar? Çoğu kedi on iki ile on sekiz yıl arasında yaşar.",
    "ru": "Сколько живёт домашняя кошка? Обычно от двенадцати до восемнадцати лет.",
    "el": "Πόσο ζει μια γάτα; Οι περισσότερες γάτες ζουν από δώδεκα έως δεκαοκτώ χρόνια.",
    "ar": "كم تعيش القطة المنزلية؟ تعيش معظم القطط بين اثني عشر وثمانية عشر عامًا.",
    "he": "כמה זמן חי חתול בית? רוב החתולים חיים בין שתים עשרה לשמונה עשרה שנים.",
    "fa": "گربه خانگی چقدر عمر می‌کند؟ بیشتر گربه‌ها دوازده تا هجده سال عمر می‌کنند.",
    "hi": "पालतू बिल्ली कितने साल जीती है? अधिकांश बिल्लियाँ बारह से अठारह साल जीती हैं।",
    "bn": "পোষা বিড়াল কত বছর বাঁচে? বেশিরভাগ বিড়াল বারো থেকে আঠারো বছর বাঁচে।",
    "ta": "வீட்டுப் பூனை எவ்வளவு காலம் வாழும்? பெரும்பாலான பூனைகள் பன்னிரண்டு ஆண்டுகள் வாழும்.",
    "th": "แมวบ้านมีอายุกี่ปี แมวส่วนใหญ่มีอายุระหว่างสิบสองถึงสิบแปดปี",
    "ja": "家猫は何年生きますか。ほとんどの猫は十二年から十八年生きます。",
    "zh": "家猫能活多久？大多数猫能活十二到十八年。",
    "ko": "집고양이는 얼마나 오래 사나요? 대부분의 고양이는 열두 해에서 열여덟 해를 삽니다.",
    "am": "የቤት ድመት ስንት ዓመት ትኖራለች? አብዛኞቹ ድመቶች ከአሥራ ሁለት ዓመት በላይ ይኖራሉ።",
    "ka": "რამდენ ხანს ცოცხლობს კატა? კატების უმეტესობა თორმეტ წელზე მეტს ცოცხლობს.",
    "hy": "Որքա՞ն է ապրում տնային կատուն։ Կատուների մեծ մասն ապրում է տասներկու տարի։",
}

AWKWARD = {
    "empty": "",
    "blank": " ",
    "blanks": " \t\n  \u3000 ",
    "emoji": "👩‍👩‍👧‍👦 🇫🇷 cats 🐈‍⬛ live 12–18 years 👍🏽",
    "combining": "e\u0301 \u0301\u0302\u0303 n\u0303 \u0e49\u0e49",
    "zero_width": "ca\u200bt\u200d \ufeffdog",
    "right_to_left_marks": "\u202eevil txt\u202c كم \u200f12\u200e",
    "control": "a\x00b\x07c\x1b[31m",
    "special_tokens": "<s> </s> <pad> <mask> [CLS] [SEP] [PAD]",
    "one_letter": "x",
    "long_word": "a" * 3_000,
    "long": "cats and dogs 猫 живут 12 years. " * 310,
    "private_use": "\ue000\uf8ff \U000f0000",
    "ligatures": "ﬁ ﬄ Ⅷ ½ ㎏ ｆｕｌｌ",
}

ALL = [*SENTENCES.values(), *AWKWARD.values()]
