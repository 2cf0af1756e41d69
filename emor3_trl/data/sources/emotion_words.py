"""Words that name an emotion, so that a folder of holidays or a column of numbers is not taken for one.

A label space that the user writes down may hold any words. Without one, labels are what occurs, and at least half of
them must be known here.
"""

import re

from emor3_trl.emotions import AROUSAL, canonical

_ENGLISH = """
admiration adoration affection affectionate afraid amazed amazement amused amusement anger angry anguish annoyance
annoyed anticipation anxiety anxious apathy appreciation apprehension aroused ashamed astonished astonishment
aversion awe awed bliss bored boredom bothered calm calmness cheerful cheerfullness cheerfulness confident confused
confusion contempt contemptuous content contented contentment craving curiosity curious defeated delight delighted
depressed depression desire despair despondent disappointed disappointment disapproval disgust disgusted disgusting
dislike dismay dissatisfied distress distressed doubt dread eager ecstasy elation embarrassed embarrassment empathy
engagement enjoyment enthralled enthrallment enthusiasm enthusiastic envious envy esteem euphoria exasperated
exasperation excited excitement expectation fatigue fear fearful fright frightened frustrated frustration fury glad
gloomy grateful gratitude grief guilt guilty happiness happy hate hatred helpless hope hopeful horrified horror
hostile humiliation hurt indifference indifferent inspired interest interested irritability irritabilty irritated
irritation jealous jealousy joy joyful joyous loathing loneliness lonely longing love loving lust melancholy
miserable misery mourning neglect nervous nervousness neutral neutrality nostalgia nostalgic optimism optimistic
outrage overwhelmed pain panic peace peaceful pensive pensiveness pity playful pleased pleasure pride proud rage
regret relaxed relief relieved remorse resentment romance sad sadness satisfaction satisfied scared sensitive
sensitivity serene serenity shame shock shocked shy shyness sleepy smile smiling sorrow startled stress stressed
suffering sulky surprise surprised suspense suspicious sympathetic sympathy tender tenderness tense tension
terrified terror thrill thrilled tired tranquil tranquility triumph trust uncomfortable unhappiness unhappy upset
vigilance weariness wonder worried worry wrath yearning zeal zest positive negative pleasant unpleasant
"""
# The basic emotions and their adjectives in German, French, Spanish, Italian, Portuguese, Dutch, Polish, Turkish,
# Russian, Chinese, Japanese and Korean
_OTHERS = """
freude fröhlich glücklich glück wut wütend ärger zorn angst furcht ängstlich trauer traurig traurigkeit ekel
überraschung überrascht neutral verachtung liebe stolz scham neid ruhe zufriedenheit begeisterung ehrfurcht
vergnügen hoffnung joie heureux colère peur tristesse triste dégoût surprise neutre mépris amour fierté honte calme
alegría alegria feliz felicidad ira enojo enfado miedo tristeza asco sorpresa neutro desprecio amor calma orgullo
gioia felicità rabbia paura disgusto sorpresa neutrale disprezzo amore orgoglio calmo felicidade raiva medo nojo
surpresa desprezo orgulho blijdschap blij vreugde boosheid boos woede angst bang verdriet verdrietig walging
verrassing neutraal radość złość gniew strach smutek wstręt zaskoczenie mutluluk mutlu öfke kızgın korku üzüntü
üzgün tiksinme iğrenme şaşkınlık nötr радость счастье гнев злость страх грусть печаль отвращение удивление
нейтральный презрение любовь 高兴 快乐 喜悦 开心 愤怒 生气 恐惧 害怕 悲伤 伤心 难过 厌恶 惊讶
惊喜 中性 中立 平静 敬畏 满足 兴奋 娱乐 轻蔑 爱 喜び 嬉しい 怒り 恐怖 恐れ 悲しみ
嫌悪 驚き 中立 無表情 軽蔑 기쁨 행복 분노 두려움 공포 슬픔 혐오 놀람 중립
"""
EMOTION_WORDS = {canonical(word) for word in (*_ENGLISH.split(), *_OTHERS.split(), *AROUSAL)}

# What people and programs call the folders around the emotions
_STRUCTURE = """
aligned all annotation annotations archive augmented backup broken class classes copies copy crop cropped data
dataset datasets deleted duplicate duplicates extra extras faces fold folder ground groundtruth gt image images img
imgs input label labeled labelled labels mask masks misc miscellaneous new old original originals output part photo
photos pic pics picture pictures processed raw remaining resized rest results sample samples set source subset
target temp test testing thumb thumbnail thumbnails thumbs tmp train training trash truth unlabeled unlabelled
unsorted untitled unused val valid validation version
"""
STRUCTURE_WORDS = set(_STRUCTURE.split())


def names_emotion(label: str) -> bool:
    """Return whether a label, or a word of it, is known to name an emotion.

    >>> names_emotion("Very_Happy"), names_emotion("2024 wedding")
    (True, False)
    """
    text = canonical(label)
    return text in EMOTION_WORDS or any(word in EMOTION_WORDS for word in re.split(r"[\W\d_]+", text))


def names_structure(label: str) -> bool:
    """Return whether a name is one of the folders around emotions rather than an emotion.

    >>> names_structure("ground_truth"), names_structure("train-set2"), names_structure("awe")
    (True, True, False)
    """
    words = [word for word in re.split(r"[\W\d_]+", canonical(label)) if word]
    return any(len(word) > 1 for word in words) and all(word in STRUCTURE_WORDS or len(word) == 1 for word in words)
